"""Two sides measured in turn, and their ratio."""
import math
from dataclasses import dataclass, field
from statistics import median


def in_turn(repetitions, *sides):
    """Calls the sides one after the other, again and again; a first round is not counted. A list for each side."""
    values = [[] for _ in sides]
    for repetition in range(repetitions + 1):
        for side, of_side in zip(sides, values):
            value = side()
            if repetition:
                of_side.append(value)
    return values


def percentile(values, percent):
    """By the nearest rank."""
    values = sorted(values)
    return values[max(math.ceil(len(values) * percent / 100), 1) - 1] if values else math.nan


@dataclass
class Ratio:
    """A row: `a` over `b`, of medians; and by how much neighbouring pairs differ."""
    row: str
    a: list
    b: list
    unit: str
    at_least: float | None = None
    at_most: float | None = None
    also: dict = field(default_factory=dict)

    def line(self):
        value = median(self.a) / median(self.b)
        pairs = [a / b for a, b in zip(self.a, self.b)]
        met = value >= self.at_least if self.at_least is not None else value <= self.at_most
        target = {"at_least": self.at_least} if self.at_least is not None else {"at_most": self.at_most}
        side = lambda values: {"median": round(median(values), 3), "values": [round(value, 3) for value in values]}
        return {"row": self.row, "ratio": round(value, 4), **target, "met": met,
                "pairs": [round(min(pairs), 4), round(max(pairs), 4)], "unit": self.unit, "a": side(self.a),
                "b": side(self.b), **self.also}

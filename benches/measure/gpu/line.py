"""A measured figure."""
from dataclasses import dataclass, field


@dataclass
class Line:
    row: str
    shape: str
    value: float
    unit: str
    # Requests at once, where a row has several.
    clients: int | None = None
    more: dict = field(default_factory=dict)

    def json(self):
        return {"row": self.row, "shape": self.shape, "clients": self.clients, "value": self.value, "unit": self.unit, **self.more}

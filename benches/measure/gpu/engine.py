"""One process of `repertoire bench`, and what was measured in it."""
from dataclasses import dataclass
from statistics import median

from ..bench import Bench


@dataclass(frozen=True)
class Asked:
    """So many requests; as many as there are clients come at once, and the last answer is waited for."""
    adapters: str
    clients: int
    prompt: int
    output: int = 1
    requests: int = 0
    more: tuple = ()

    def flags(self):
        return ["--adapters", self.adapters, "--concurrency", self.clients, "--requests", self.requests or self.clients,
                "--prompt-tokens", self.prompt, "--output-tokens", self.output, *self.more]


class Figures:
    """What rounds of the same came to."""

    def __init__(self, points):
        self.points = points

    def all(self, field, percentile=None):
        values = [point[field] for point in self.points]
        return [value[percentile] for value in values] if percentile else values

    def median(self, field, percentile=None):
        return median(self.all(field, percentile))

    @property
    def tokens_per_s(self):
        return self.median("output_tokens_per_s")

    @property
    def requests_per_s(self):
        return self.median("requests_per_s")

    @property
    def step_ms(self):
        return self.median("itl_ms", "p50")

    @property
    def first_ms(self):
        return self.median("ttft_ms", "p50")


class Engine:
    """Measures points of a shape in one process: loading a base takes longer than most of them."""

    def __init__(self, place, shape, store, *settings, target=("--in-process",), flags=(), known=None):
        self.shape = shape
        self.repetitions = place.repetitions
        # Over HTTP the server is configured, not this.
        settings = place.settings(shape, store, *settings) if store else []
        self.bench = Bench(place, *target, *settings, "--warmup", 0, *flags, clients=1)
        self.known = {} if known is None else known

    def ended(self):
        return self.bench.process.poll() is not None

    def rounds(self, *asked, repetitions=None):
        """Figures of each, measured in turn after a round that is not counted. Known ones are not measured again."""
        if asked not in self.known:
            points = [[] for _ in asked]
            for repetition in range((repetitions or self.repetitions) + 1):
                for one, of_one in zip(asked, points):
                    point = self.bench.point(*one.flags())
                    if repetition:
                        of_one.append(point)
            self.known[asked] = [Figures(of_one) for of_one in points]
        return self.known[asked]

    def once(self, asked):
        """Figures of a single round."""
        return Figures([self.bench.point(*asked.flags())])

    def close(self):
        self.bench.__exit__()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

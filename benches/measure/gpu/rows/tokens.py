"""Output tokens per second of batches that come at once, prompts included; and prompt tokens per second."""
from ..engine import Asked
from ..line import Line
from ..place import lora


def _batch(place, shape, row, adapters, clients):
    sizes, engine = place.sizes, place.main(shape)
    asked = Asked(adapters, clients, sizes.prompt, sizes.output)
    [figures] = engine.rounds(asked)
    more = {"step_ms": figures.step_ms, "first_ms": figures.first_ms, "rounds": figures.all("output_tokens_per_s")}
    if clients == sizes.batch:
        # Clients that ask again when answered: prompts of some between tokens of others.
        loop = engine.once(Asked(adapters, clients, sizes.prompt, sizes.output, sizes.loop * clients))
        more["closed_loop"] = loop.tokens_per_s
    return Line(row, shape.name, round(figures.tokens_per_s, 1), "tokens/s", clients, more)


def base(place, shape):
    for clients in place.sizes.batches:
        yield _batch(place, shape, "base", "none", clients)


def shared(place, shape):
    for clients in place.sizes.batches:
        yield _batch(place, shape, "shared", lora(0), clients)


def distinct(place, shape):
    batch = place.sizes.batch
    for clients in (batch, 2 * batch):
        yield _batch(place, shape, "distinct", lora(0, batch - 1), clients)


def prefill(place, shape):
    sizes = place.sizes
    for row, adapters in (("prefill-base", "none"), ("prefill-distinct", lora(0, sizes.batch - 1))):
        [figures] = place.main(shape).rounds(Asked(adapters, sizes.batch, sizes.long_prompt))
        yield Line(row, shape.name, round(figures.requests_per_s * sizes.long_prompt, 1), "tokens/s", sizes.batch,
                   {"rounds": [round(rate * sizes.long_prompt) for rate in figures.all("requests_per_s")]})

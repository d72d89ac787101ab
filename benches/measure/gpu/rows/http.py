"""The same batches over HTTP as in process."""
from ...serve import Serve
from ..engine import Asked, Engine
from ..line import Line
from ..place import lora


def http(place, shape):
    sizes = place.sizes
    sets = (("http-base", "none"), ("http-distinct", lora(0, sizes.batch - 1)))
    ask = lambda adapters: Asked(adapters, sizes.batch, sizes.prompt, sizes.output)
    within = [place.main(shape).rounds(ask(adapters))[0] for _, adapters in sets]
    store = place.loras(shape)
    place.release()
    with Serve(place, shape, store) as server, \
            Engine(place, shape, None, target=("--url", server.url, "--base", shape.name)) as engine:
        over = [engine.rounds(ask(adapters))[0] for _, adapters in sets]
    for (row, _), here, there in zip(sets, within, over):
        yield Line(row, shape.name, round(there.tokens_per_s, 1), "tokens/s", sizes.batch,
                   {"of_in_process": round(there.tokens_per_s / here.tokens_per_s, 4), "step_ms": there.step_ms,
                    "rounds": there.all("output_tokens_per_s")})

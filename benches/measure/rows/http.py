"""What HTTP and streaming cost."""
from ..bench import Bench
from ..ratio import Ratio, in_turn
from ..serve import Serve
from .batch import CLIENTS, OUTPUT, PROMPT, load, tokens


def http_cost(place):
    base = place.decoder()
    requests = place.less(2 * CLIENTS, CLIENTS)
    with Serve(place, base, place.empty_store()) as server, \
            load(place, base, place.empty_store(), "none", requests) as inside, \
            Bench(place, "--url", server.url, "--base", base.name, "--requests", requests, "--prompt-tokens", PROMPT,
                  "--output-tokens", place.less(OUTPUT, 16), "--seed", 1, clients=CLIENTS) as outside:
        inside.wait_until_ready()
        outside.wait_until_ready()
        a, b = in_turn(place.repetitions, tokens(outside), tokens(inside))
    return [Ratio("http-cost", a, b, "tokens/s", at_least=0.97)]

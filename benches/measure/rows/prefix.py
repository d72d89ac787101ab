"""The time to the first token when the start of a prompt was seen before."""
from ..bench import Bench
from ..ratio import Ratio, in_turn

SHARED = 512
PROMPT = SHARED + 32


def shared_prefix(place):
    base = place.decoder()
    load = lambda shared: Bench(place, "--in-process", *place.settings(base, place.empty_store()), "--requests", place.less(4, 1),
                                "--prompt-tokens", PROMPT, "--shared-prefix", shared, "--output-tokens", 1, "--seed", 1,
                                clients=1)
    first = lambda bench: lambda: bench.point()["ttft_ms"]["p50"]
    with load(SHARED) as shared, load(0) as all_new:
        shared.wait_until_ready()
        all_new.wait_until_ready()
        a, b = in_turn(place.repetitions, first(shared), first(all_new))
        cached = [request["cached_tokens"] for request in shared.trace()]
    return [Ratio("shared-prefix", a, b, "ms", at_most=0.15, also={"cached_tokens": cached})]

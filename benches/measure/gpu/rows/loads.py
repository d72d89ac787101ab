"""Streams, and adapters that are loaded beside them."""
import time

from ...bench import Bench, Failed
from ...rows.streams import gaps, p99
from ...serve import Serve
from ..line import Line
from ..place import adapter_bytes, lora

PROMPT = 32
QUIET_SECONDS = 0.3
# Adapters for which there is room on the device.
ON_DEVICE = 4


def _numbered(requests):
    """Gaps of all streams, with the number of the token before: later ones have more to look back at."""
    return [(number, gap) for request in requests for number, gap in enumerate(gaps([request]))]


def _step_seconds(requests):
    """The mean: over HTTP tokens may come together."""
    times = [after - before for before, after in gaps(requests)]
    return sum(times) / len(times)


def _beside(fore, load, pause):
    """99th percentiles of the gaps while a load is there, and of the same tokens when it is not."""
    fore.point()
    alone = _numbered(fore.trace())
    fore.begin()
    time.sleep(pause)
    load.point()
    fore.end()
    start, end = (edge(request[name] for request in load.trace()) for edge, name in ((min, "start"), (max, "end")))
    disturbed = [(number, gap) for number, gap in _numbered(fore.trace()) if gap[1] > start and gap[0] < end]
    if not disturbed:
        raise Failed("the streams ended before the loads came")
    first, last = min(number for number, _ in disturbed), max(number for number, _ in disturbed)
    quiet = [gap for number, gap in alone if first <= number <= last]
    return p99([gap for _, gap in disturbed]), p99(quiet)


def loads(place, shape):
    """Requests for one token, each for an adapter that is not on the device; and the same for one that is."""
    sizes, store = place.sizes, place.loras(shape)
    place.release()
    requests = round(sizes.loads_per_s * sizes.load_seconds)
    room = ON_DEVICE * adapter_bytes(store / lora(0))
    with Serve(place, shape, store, f"adapters.device_bytes={room}", "adapters.host_bytes=16GiB") as server:
        to = ("--url", server.url, "--base", shape.name, "--warmup", 0)
        asks = lambda names: Bench(place, *to, "--adapters", names, "--rate", sizes.loads_per_s, "--requests", requests,
                                   "--prompt-tokens", 4, "--output-tokens", 1, clients=requests)
        streams = ("--requests", sizes.streams, "--prompt-tokens", PROMPT)
        with asks(lora(0, sizes.loras - 1)) as cold, asks(lora(0)) as warm, \
                Bench(place, *to, *streams, "--output-tokens", 32, clients=sizes.streams) as fore:
            warm.wait_until_ready()
            cold.wait_until_ready()
            fore.point()
            trial = fore.point()
            # The time of all of the load, and some to spare.
            seconds = 2 * QUIET_SECONDS + sizes.load_seconds + 0.5
            tokens = round(seconds / _step_seconds(fore.trace()))
            fore.point(*streams, "--output-tokens", tokens)
            pause = trial["ttft_ms"]["p99"] / 1e3 + QUIET_SECONDS
            rounds = {load: [_beside(fore, load, pause) for _ in range(place.repetitions + 1)] for load in (cold, warm)}
    # The first round is not counted.
    ratios = {load: [round(disturbed / quiet, 3) for disturbed, quiet in pairs[1:]] for load, pairs in rounds.items()}
    middle = sorted(rounds[cold][1:], key=lambda pair: pair[0] / pair[1])[place.repetitions // 2]
    yield Line("loads", shape.name, round(middle[0] / middle[1], 4), "of quiet", sizes.streams,
               {"p99_ms": round(middle[0], 3), "quiet_p99_ms": round(middle[1], 3), "ratios": ratios[cold],
                "resident_ratios": ratios[warm], "per_s": sizes.loads_per_s})

"""Seven streams over HTTP, and what arrives beside them.

The streams run quietly for a while, then the other load comes: both sides of a ratio are parts of one point, and time alone
tells them apart. A gap between two tokens counts as disturbed if it overlaps the time of the other load.
"""
import http.client
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle

from ..bench import Bench, Failed
from ..ratio import Ratio, percentile
from ..serve import Serve

STREAMS = 7
PROMPT = 32
LONG = 1500
QUIET_SECONDS = 4


def streams(place, base, server, output):
    return Bench(place, "--url", server.url, "--base", base.name, "--requests", STREAMS, "--warmup", 0, "--prompt-tokens",
                 PROMPT, "--output-tokens", output, clients=STREAMS)


def measure_of(place, base, server, seconds):
    """By what a first token and the next take now: tokens that keep the streams busy for the quiet time and so much longer,
    and when the quiet time is over."""
    with streams(place, base, server, 16) as trial:
        point = trial.point()
    return int((QUIET_SECONDS + seconds) * 1e3 / point["itl_ms"]["p50"]) + 16, point["ttft_ms"]["p99"] / 1e3 + QUIET_SECONDS


def beside(fore, back, pause):
    """A point of the streams with, after a pause, a point of the other load in it: both traces."""
    fore.begin()
    time.sleep(pause)
    back.begin()
    back.end()
    other = back.trace()
    fore.end()
    return fore.trace(), other


def gaps(requests):
    """When a token came, and the next of the same stream."""
    return [pair for request in requests for pair in zip(request["tokens"], request["tokens"][1:])]


def p99(gaps):
    return percentile([(after - before) * 1e3 for before, after in gaps], 99)


def quiet_and_disturbed(requests, other):
    """The 99th percentile of gaps before the other load came, and while it was there."""
    # Before, all streams are in: their own prompts disturb, too.
    begun = max(request["tokens"][0] for request in requests)
    start, end = min(request["start"] for request in other), max(request["end"] for request in other)
    quiet = [(before, after) for before, after in gaps(requests) if before >= begun and after <= start]
    disturbed = [(before, after) for before, after in gaps(requests) if after > start and before < end]
    if not quiet or not disturbed:
        raise Failed("the streams had no quiet time, or ended before the other load came: is the machine busy with others?")
    return p99(quiet), p99(disturbed)


def ended_early(requests, other):
    """Whether a stream ended before the other load did: part of its time was easier."""
    return min(request["end"] for request in requests) < max(request["end"] for request in other)


def long_prompt(place):
    base = place.decoder()
    long = place.less(LONG, 500)
    with Serve(place, base, place.empty_store()) as server:
        prompt = lambda: Bench(place, "--url", server.url, "--base", base.name, "--requests", 1, "--warmup", 0,
                               "--prompt-tokens", long, "--output-tokens", 1, clients=1)
        with prompt() as alone, prompt() as arriving:
            alone.wait_until_ready()
            arriving.wait_until_ready()
            first = alone.point()["ttft_ms"]["p50"]
            output, pause = measure_of(place, base, server, 3 * first / 1e3)
            itl, ttft, early = ([], []), ([first], []), 0
            with streams(place, base, server, output) as fore:
                fore.wait_until_ready()
                for repetition in range(place.repetitions):
                    if repetition:
                        ttft[0].append(alone.point()["ttft_ms"]["p50"])
                    requests, other = beside(fore, arriving, pause)
                    quiet, disturbed = quiet_and_disturbed(requests, other)
                    itl[0].append(disturbed)
                    itl[1].append(quiet)
                    ttft[1].append((other[0]["tokens"][0] - other[0]["start"]) * 1e3)
                    early += ended_early(requests, other)
    also = {"prompt_tokens": long, "ended_early": early}
    return [Ratio("long-prompt-itl-p99", itl[0], itl[1], "ms", at_most=2.0, also=also),
            Ratio("long-prompt-ttft", ttft[1], ttft[0], "ms", at_most=2.2, also=also)]


def yield_to_others():
    """This thread's own work, which elsewhere is on another machine, waits for the server's."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


class Loads:
    """Loads without requests: adapters that are not resident are pinned, one after the other, and let go at once."""

    def __init__(self, server, names, rate, seconds):
        self.server, self.rate, self.seconds = server, rate, seconds
        self.names = cycle(names)
        self.requests = []

    def begin(self):
        self.requests = []
        self.pool = ThreadPoolExecutor(self.rate, initializer=yield_to_others)
        start = time.time()
        self.waiting = [self.pool.submit(self._load, start + i / self.rate, next(self.names))
                        for i in range(self.rate * self.seconds)]

    def _load(self, at, name):
        time.sleep(max(at - time.time(), 0))
        begun = time.time()
        for method in ("PUT", "DELETE"):
            connection = http.client.HTTPConnection(self.server.url.removeprefix("http://"), timeout=60)
            connection.request(method, f"/v1/adapters/{name}/pin")
            answer = connection.getresponse()
            answer.read()
            connection.close()
            if answer.status != 200:
                raise Failed(f"{method} /v1/adapters/{name}/pin answered {answer.status}")
        self.requests.append({"start": begun, "end": time.time()})

    def end(self):
        for load in self.waiting:
            load.result()
        self.pool.shutdown()

    def trace(self):
        return self.requests


def cold_loads(place):
    """Adapters that are not resident are loaded at a steady rate: by name alone, then by requests for a token.

    `warm` is what the same requests do for an adapter that stays: their own arithmetic.
    """
    base = place.decoder()
    rate, seconds, adapters = 20, place.less(5, 2), 60
    store, names = place.adapters(base, "cold", adapters, "lora", "--rank", "16", "--targets", "all-linear", "--dtype", "bf16")
    # Room for a few of them: the one that comes next was thrown out long ago.
    with Serve(place, base, store, "adapters.host_bytes=64MiB") as server:
        asks = lambda names: Bench(place, "--url", server.url, "--base", base.name, "--adapters", names, "--rate", rate,
                                   "--requests", rate * seconds, "--warmup", 0, "--prompt-tokens", 4, "--output-tokens", 1,
                                   clients=rate)
        pins = Loads(server, [f"bench-lora-{number:04}" for number in range(adapters)], rate, seconds)
        with asks(names) as cold, asks("bench-lora-0000") as warm:
            cold.wait_until_ready()
            warm.wait_until_ready()
            output, pause = measure_of(place, base, server, 2 * seconds)
            with streams(place, base, server, output) as fore:
                fore.wait_until_ready()
                disturbs, warms, rates = {pins: [], cold: []}, [], {pins: [], cold: []}
                for _ in range(place.repetitions):
                    requests, other = beside(fore, warm, pause)
                    quiet, disturbed = quiet_and_disturbed(requests, other)
                    warms.append(disturbed / quiet)
                    for load, values in disturbs.items():
                        requests, other = beside(fore, load, pause)
                        quiet, disturbed = quiet_and_disturbed(requests, other)
                        values.append((disturbed, quiet))
                        span = max(o["end"] for o in other) - min(o["start"] for o in other)
                        rates[load].append(round(len(other) / span, 1))
    row = lambda name, load, also: Ratio(name, *map(list, zip(*disturbs[load])), "ms", at_most=1.2,
                                         also={"loads_per_s": rates[load], **also})
    return [row("cold-loads", pins, {}),
            row("cold-requests", cold, {"warm_ratios": [round(ratio, 3) for ratio in warms]})]

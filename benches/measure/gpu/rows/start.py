"""From the start of a server to its being ready, with weights in the page cache."""
import re
import time

from ...serve import Serve
from ..line import Line
from ..weights import write

# How times are written in logs.
SECONDS = {"s": 1.0, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9}


def _logged(text, name):
    """Seconds that the log tells under a name, if it does."""
    found = re.search(rf"\b{name}=([0-9.]+)(s|ms|µs|ns)", text)
    return float(found[1]) * SECONDS[found[2]] if found else None


def start(place, shape):
    place.release()
    folder = write(shape, place.work / shape.name / "weights")
    settings = (f"bases.0.source={folder}", "adapters.device_bytes=1GiB")
    ready, captured, warm = [], [], []
    # The first may read what others find in the page cache: libraries, the binary itself.
    for _ in range(2):
        begun = time.perf_counter()
        with Serve(place, shape, place.store(shape, "none"), *settings) as server:
            ready.append(round(time.perf_counter() - begun, 2))
        lines = [line for line in server.log.read_text().splitlines() if "the GPU is warm" in line]
        captured += [_logged(line, "captured_in") for line in lines]
        warm += [_logged(line, "took") for line in lines]
    yield Line("start", shape.name, ready[-1], "s", more={"first_s": ready[0], "warm_up_s": warm})
    if captured:
        yield Line("capture", shape.name, captured[-1], "s", more={"all_s": captured})

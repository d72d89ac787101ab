"""A decode step of one request, against the time in which its bytes could be copied."""
from ..engine import Asked
from ..line import Line


def share(place, shape):
    sizes = place.sizes
    rate = place.copy_rate()
    [figures] = place.main(shape).rounds(Asked("none", 1, sizes.prompt, sizes.output))
    # Halfway through the answer.
    held = shape.step_weight_bytes() + shape.kv_bytes(sizes.prompt + sizes.output // 2)
    step = figures.step_ms / 1e3
    yield Line("share", shape.name, round(held / (step * rate), 4), "of the copy rate",
               more={"step_ms": figures.step_ms, "megabytes": round(held / 1e6, 1), "copy_tb_per_s": round(rate / 1e12, 3)})

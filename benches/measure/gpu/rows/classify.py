"""Texts that come at once, under adapters with heads of their own and different numbers of labels."""
import shutil

from ..engine import Asked, Engine
from ..line import Line

LABELS = (2, 3, 4, 6, 10)
OF_EACH = 10


def _heads(place, shape):
    """The store, and names in an order that mixes them."""
    store = place.store(shape, "adapters")
    for labels in LABELS:
        if (store / f"labels-{labels}-0000").exists():
            continue
        made = place.store(shape, f"made-{labels}")
        place.make(shape, made, OF_EACH, "lora", "--rank", "8", "--dtype", "bf16", "--labels", str(labels))
        for number in range(OF_EACH):
            shutil.move(made / f"bench-lora-{number:04}", store / f"labels-{labels}-{number:04}")
    return store, [f"labels-{labels}-{number:04}" for number in range(OF_EACH) for labels in LABELS]


def classify(place, shape):
    sizes = place.sizes
    store, names = _heads(place, shape)
    place.release()
    waiting = ("scheduler.max_running=512", "scheduler.max_waiting=1024")
    with Engine(place, shape, store, *waiting, flags=("--task", "classify")) as engine:
        asked = Asked(",".join(names), sizes.texts, sizes.text_tokens)
        [figures] = engine.rounds(asked, repetitions=4 * place.repetitions)
        loop = engine.once(Asked(",".join(names), sizes.texts, sizes.text_tokens, 8 * sizes.texts))
    yield Line("classify", shape.name, round(figures.requests_per_s, 1), "texts/s", sizes.texts,
               {"rounds": figures.all("requests_per_s"), "closed_loop": loop.requests_per_s})

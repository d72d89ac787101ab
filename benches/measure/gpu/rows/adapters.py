"""What adapters cost a batch: against the base, against the time in which they could be copied, and of mixed kinds."""
from statistics import median

from ..engine import Asked
from ..line import Line
from ..place import LORA, adapter_bytes, lora

# Groups of linear layers that read the same input, in each layer: each takes launches of its own for adapters.
GROUPS = 4


def _beside(place, shape):
    """The base, one adapter for all and one for each, in turn."""
    sizes = place.sizes
    sets = ("none", lora(0), lora(0, sizes.batch - 1))
    return place.main(shape).rounds(*(Asked(adapters, sizes.batch, sizes.prompt, sizes.output) for adapters in sets))


def added(place, shape):
    batch = place.sizes.batch
    base, _, distinct = _beside(place, shape)
    store = place.loras(shape)
    held = sum(adapter_bytes(store / lora(number)) for number in range(batch))
    pairs = zip(distinct.all("itl_ms", "p50"), base.all("itl_ms", "p50"))
    added = median(with_them - without for with_them, without in pairs)
    copied = held / place.copy_rate() * 1e3
    yield Line("added", shape.name, round(added / copied, 3), "of the time to copy them", batch,
               {"added_ms": round(added, 4), "copied_in_ms": round(copied, 4), "step_ms": distinct.step_ms,
                "base_step_ms": base.step_ms, "added_us_per_group": round(added * 1e3 / (shape.layers * GROUPS), 3)})


def one(place, shape):
    base, shared, _ = _beside(place, shape)
    yield Line("one", shape.name, round(shared.tokens_per_s / base.tokens_per_s, 4), "of the base", place.sizes.batch,
               {"tokens_per_s": shared.tokens_per_s, "base_tokens_per_s": base.tokens_per_s})


def mixed(place, shape):
    """Six kinds in equal parts, the base among them, against as many different LoRAs."""
    sizes, store = place.sizes, place.loras(shape)
    each = -(-sizes.batch // 6)
    made = {"dora": ("--rank", "16", *LORA), "ia3": ("--targets", "all-linear"), "prefix_tuning": (), "prompt_tuning": ()}
    for kind, flags in made.items():
        place.make(shape, store, each, kind, *flags)
    kinds = ("lora", *made)
    names = ",".join(name for n in range(each) for name in (*(f"bench-{kind}-{n:04}" for kind in kinds), "none"))
    of = lambda adapters: Asked(adapters, sizes.batch, sizes.prompt, sizes.output)
    kinds, loras = place.main(shape).rounds(of(names), of(lora(0, sizes.batch - 1)))
    yield Line("mixed", shape.name, round(kinds.tokens_per_s / loras.tokens_per_s, 4), "of LoRAs alone", sizes.batch,
               {"tokens_per_s": kinds.tokens_per_s, "loras_tokens_per_s": loras.tokens_per_s, "step_ms": kinds.step_ms,
                "loras_step_ms": loras.step_ms})

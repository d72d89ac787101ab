"""Stores of many adapters: what those that nobody asks for cost, and those that are asked for now and then."""
from statistics import median

from ..engine import Asked, Engine
from ..line import Line
from ..place import LORA, adapter_bytes, lora

ROOM = 4 << 30


def registered(place, shape):
    """Base requests with a thousand adapters in the store, a batch of them on the device, and without any."""
    sizes = place.sizes
    store = place.linked(shape, "registered", sizes.registered, place.loras(shape))
    place.release()
    # Two processes share the device, and take turns.
    with Engine(place, shape, store, "bases.0.device_memory=0.4") as many:
        many.once(Asked(lora(0, sizes.batch - 1), sizes.batch, sizes.prompt, 2))
        # What the first has taken is not the second's: it starts when that is known.
        with Engine(place, shape, place.store(shape, "none"), "bases.0.device_memory=0.8") as none:
            asked = Asked("none", sizes.batch, sizes.prompt, sizes.output)
            a, b = [], []
            for repetition in range(2 * place.repetitions + 1):
                for engine, values in ((many, a), (none, b)):
                    figure = engine.once(asked).tokens_per_s
                    if repetition:
                        values.append(figure)
    yield Line("registered", shape.name, round(median(a) / median(b), 4), "of no adapters", sizes.batch,
               {"with": a, "without": b, "adapters": sizes.registered})


def zipf(place, shape):
    """Adapters of rank 8 drawn by Zipf's law, far more than the device has room for, and five."""
    sizes = place.sizes
    different = place.store(shape, "rank8")
    place.make(shape, different, sizes.different, "lora", "--rank", "8", *LORA)
    store = place.linked(shape, "many", sizes.many, different)
    place.release()
    room = (f"adapters.device_bytes={ROOM}", "adapters.host_bytes=16GiB")
    # As many as the device has room for.
    held = min(ROOM // adapter_bytes(store / lora(0)), sizes.many)
    rarest_first = ",".join(lora(number) for number in reversed(range(sizes.many)))
    with Engine(place, shape, store, *room) as engine:
        loop = (sizes.zipf_loop * sizes.batch, ("--zipf", "1.0"))
        ask = lambda last: Asked(lora(0, last), sizes.batch, sizes.prompt, sizes.output, *loop)
        # Who has read no others yet: files are verified when they are first read.
        engine.once(Asked(lora(0, held - 1), sizes.batch, sizes.short_prompt, requests=held))
        unread = engine.once(ask(sizes.many - 1)).tokens_per_s / engine.once(ask(4)).tokens_per_s
        # A server that runs for long has read all of them, and those that are asked for most last.
        engine.once(Asked(rarest_first, sizes.batch, sizes.short_prompt, requests=sizes.many))
        many, five = engine.rounds(ask(sizes.many - 1), ask(4))
    yield Line("zipf", shape.name, round(many.tokens_per_s / five.tokens_per_s, 4), "of five adapters", sizes.batch,
               {"tokens_per_s": many.tokens_per_s, "five_tokens_per_s": five.tokens_per_s, "rounds": many.all("output_tokens_per_s"),
                "first_ms_p99": many.median("ttft_ms", "p99"), "with_unread_files": round(unread, 4), "adapters": sizes.many})

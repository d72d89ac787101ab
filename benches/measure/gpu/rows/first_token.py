"""The first token of a request whose adapter is not on the device, alone on the engine: what it waits longer."""
from ..engine import Asked, Engine
from ..line import Line
from ..place import adapter_bytes, lora

# Adapters for which there is room on the device, those that are asked for in turn from the host, and room for them there.
ON_DEVICE, FROM_HOST, ON_HOST = 4, 6, 16


def first_token(place, shape):
    store = place.loras(shape)
    place.release()
    each = adapter_bytes(store / lora(0))
    room = lambda count: f"{count * each + each // 2}"
    asks = place.sizes.batch
    # More than the host has room for, in turn: each is read from its file, and was longest ago when it comes again.
    files = Asked(lora(0, place.sizes.loras - 1), 1, place.sizes.prompt, requests=place.sizes.loras)
    host = Asked(lora(0, FROM_HOST - 1), 1, place.sizes.prompt, requests=asks)
    there = Asked(lora(0), 1, place.sizes.prompt, requests=asks)
    with Engine(place, shape, store, f"adapters.device_bytes={room(ON_DEVICE)}", f"adapters.host_bytes={room(ON_HOST)}") as engine:
        engine.once(Asked("none", 1, place.sizes.prompt, requests=asks))
        # A file's digest is verified when it is read for the first time since the start.
        verified = engine.once(files)
        again = engine.once(files)
        engine.once(host)
        from_host = engine.once(host)
        engine.once(there)
        resident = engine.once(there)
    extra = lambda figures: round(figures.first_ms - resident.first_ms, 3)
    more = {"resident_ms": resident.first_ms, "adapter_megabytes": round(each / 1e6, 1)}
    yield Line("first-from-host", shape.name, extra(from_host), "ms", more={"ms": from_host.first_ms, **more})
    yield Line("first-from-files", shape.name, extra(again), "ms", more={"ms": again.first_ms, **more})
    yield Line("first-after-start", shape.name, extra(verified), "ms", more={"ms": verified.first_ms, **more})

"""Eight requests at once, in process: what adapters cost."""
import subprocess

from ..bench import Bench
from ..peft import Peft
from ..ratio import Ratio, in_turn

PROMPT = 32
OUTPUT = 64
CLIENTS = 8


def load(place, base, store, adapters, requests=CLIENTS, output=OUTPUT, more=()):
    """A load of waves of eight: with as many requests as clients, a point is one batch from prompt to last token."""
    return Bench(place, "--in-process", *place.settings(base, store), "--adapters", adapters, "--requests", requests,
                 "--prompt-tokens", PROMPT, "--output-tokens", place.less(output, 16), "--seed", 1, *more, clients=CLIENTS)


def tokens(bench):
    return lambda: bench.point()["output_tokens_per_s"]


def eight_distinct(place, base):
    """Eight LoRAs over all linear layers, rank 16, in f32 as PEFT saves them."""
    return place.adapters(base, "r16-all", 8, "lora", "--rank", "16", "--targets", "all-linear")


def distinct_vs_peft(place):
    base = place.decoder()
    store, names = eight_distinct(place, base)
    folders = sorted(str(folder) for folder in store.glob("bench-lora-*"))
    with load(place, base, store, names) as ours, Peft(place) as peft:
        ours.wait_until_ready()
        case = {"case": "generate", "adapters": folders, "batch": CLIENTS, "prompt_tokens": PROMPT,
                "output_tokens": place.less(OUTPUT, 16)}
        a, b = in_turn(place.repetitions, tokens(ours), lambda: peft.point(**case)["output_tokens_per_s"])
    return [Ratio("distinct-vs-peft", a, b, "tokens/s", at_least=1.7)]


def adapter_bytes(place):
    """A step of the batch is what passes between two of its tokens; the bytes of an adapter are those of its file."""
    base = place.decoder()
    store, names = eight_distinct(place, base)
    held = sum(file.stat().st_size for file in store.glob("*/adapter_model.safetensors"))
    step = lambda bench: lambda: bench.point()["itl_ms"]["p50"]
    command = [place.binary, "bench", "--bandwidth", *place.settings(base, store)]
    bandwidth = lambda: float(subprocess.run(command, cwd=place.work, capture_output=True, text=True, check=True).stdout)
    with load(place, base, store, names) as eight, load(place, base, place.empty_store(), "none") as plain:
        eight.wait_until_ready()
        plain.wait_until_ready()
        with_adapters, without, speed = in_turn(place.repetitions, step(eight), step(plain), bandwidth)
    added = [a - b for a, b in zip(with_adapters, without)]
    floor = [held / 1e6 / gigabytes for gigabytes in speed]
    also = {"adapter_megabytes": round(held / 1e6, 1), "read_gigabytes_per_s": [round(value, 2) for value in speed]}
    return [Ratio("adapter-bytes", added, floor, "ms", at_most=1.5, also=also)]


def against_base(place, row, base, store, names, at_least):
    with load(place, base, store, names) as adapters, \
            load(place, base, place.empty_store(), "none") as plain:
        adapters.wait_until_ready()
        plain.wait_until_ready()
        a, b = in_turn(place.repetitions, tokens(adapters), tokens(plain))
    return [Ratio(row, a, b, "tokens/s", at_least=at_least)]


def distinct_vs_base(place):
    base = place.decoder()
    return against_base(place, "distinct-vs-base", base, *eight_distinct(place, base), 0.75)


def mixed_kinds(place):
    base = place.decoder()
    make = lambda count, kind, *flags: place.adapters(base, "mixed", count, kind, *flags)
    store, loras = make(2, "lora", "--rank", "16", "--targets", "all-linear")
    _, ia3s = make(2, "ia3")
    make(1, "prefix_tuning")
    make(1, "prompt_tuning")
    names = f"{loras},{ia3s},bench-prefix_tuning-0000,bench-prompt_tuning-0000,none,none"
    return against_base(place, "mixed-kinds", base, store, names, 0.88)


def thousand(place, base):
    """A thousand small ones; rank 8 on the layers that PEFT takes."""
    return place.adapters(base, "many", 1000, "lora", "--rank", "8", "--dtype", "bf16")


def thousand_registered(place):
    base = place.decoder()
    store, _ = thousand(place, base)
    requests = place.less(3 * CLIENTS, CLIENTS)
    with load(place, base, store, "none", requests) as many, load(place, base, place.empty_store(), "none", requests) as none:
        many.wait_until_ready()
        none.wait_until_ready()
        a, b = in_turn(place.repetitions, tokens(many), tokens(none))
    return [Ratio("thousand-registered", a, b, "tokens/s", at_least=0.99)]


def zipf(place):
    base = place.decoder()
    store, _ = thousand(place, base)
    few, five_names = place.adapters(base, "five", 5, "lora", "--rank", "8", "--dtype", "bf16")
    law = ("--zipf", "1.0")
    requests = place.less(64, 16)
    with load(place, base, store, "bench-lora-0000..0499", requests, 32, law) as many, \
            load(place, base, few, five_names, requests, 32, law) as five:
        many.wait_until_ready()
        five.wait_until_ready()
        a, b = in_turn(place.repetitions, tokens(many), tokens(five))
    return [Ratio("zipf", a, b, "tokens/s", at_least=0.90)]

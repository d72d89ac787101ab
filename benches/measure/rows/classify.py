"""Texts of many lengths, each under one of many adapters with heads of their own."""
from ..bench import Bench
from ..peft import Peft
from ..ratio import Ratio, in_turn

TEXTS = 64
ADAPTERS = 16
LABELS = 4


def classify(place):
    base = place.encoder()
    store, names = place.adapters(base, "heads", ADAPTERS, "lora", "--rank", "8", "--labels", str(LABELS))
    folders = sorted(str(folder) for folder in store.glob("bench-lora-*"))
    lengths = []

    def texts():
        """All at once, as PEFT gets them."""
        point = ours.point()
        lengths[:] = [request["prompt_tokens"] for request in ours.trace()]
        return point["requests_per_s"]

    def peft_texts():
        # The lengths of the round before, in the order of their adapters.
        return peft.point(case="classify", adapters=folders, lengths=lengths, labels=LABELS)["requests_per_s"]

    with Bench(place, "--in-process", *place.settings(base, store), "--adapters", names, "--task", "classify",
               "--requests", TEXTS, "--prompt-tokens", "5-50", "--seed", 1, clients=TEXTS) as ours, Peft(place) as peft:
        ours.wait_until_ready()
        a, b = in_turn(place.less(3, 1) * place.repetitions, texts, peft_texts)
    return [Ratio("classify", a, b, "texts/s", at_least=1.2)]

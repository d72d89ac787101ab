#!/usr/bin/env python3
"""Measures transformers + PEFT on the CPU in f32: one JSON line per point, with the fields of `repertoire bench --json`.

  measure.py generate [--adapters FOLDER ...] [--batch N] [--prompt-tokens N] [--output-tokens N]
  measure.py classify  --adapters FOLDER ...  [--lengths 5,17,...]
  measure.py serve     # cases as JSON lines on standard input, a line of answer each: how benches/table.py asks

`generate` without adapters runs the base alone; with one, that adapter for all rows; with several, PEFT's mixed batch
(`adapter_names`), the rows taking the adapters in turn. `classify` takes one adapter after the other (`set_adapter`) and pads
the texts of each together, which is what PEFT offers for adapters with heads of their own.
"""
import argparse
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
from peft import PeftModel
from transformers import (AutoModelForCausalLM, AutoModelForSequenceClassification, StoppingCriteria,
                          StoppingCriteriaList)

ROOT = Path(__file__).resolve().parents[3]
DECODER = ROOT / "models/smollm2-135m"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
ENCODER = ROOT / "models/minilm"

if not torch.cuda.is_available():
    # generate() asks for it; a torch without the CUDA libraries cannot answer.
    torch.cuda.is_current_stream_capturing = torch.cuda.graphs.is_current_stream_capturing = lambda: False


class Clock(StoppingCriteria):
    """Notes when each token is there; stops nothing."""

    def __init__(self):
        self.at = []

    def __call__(self, input_ids, scores, **kwargs):
        self.at.append(time.perf_counter())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


def percentiles(seconds):
    times = sorted(second * 1e3 for second in seconds)
    rank = lambda percent: round(times[max(-(-len(times) * percent // 100), 1) - 1], 3) if times else None
    return {"p50": rank(50), "p90": rank(90), "p99": rank(99)}


def point(concurrency, adapters, output_tokens, requests, seconds, first, between):
    return {"concurrency": concurrency, "adapters": adapters, "output_tokens_per_s": round(output_tokens / seconds, 3),
            "requests_per_s": round(requests / seconds, 3), "ttft_ms": percentiles(first), "itl_ms": percentiles(between),
            "errors": 0}


class Wrapped:
    """A base, and the adapters that were put on it under their folders' names."""

    def __init__(self, load):
        self.load = load
        self.model = None
        self.plain = None

    def base(self):
        if self.plain is None:
            self.plain = self.load()
        return self.plain

    def with_adapters(self, folders):
        for folder in folders:
            name = Path(folder).name
            if self.model is None:
                # A model of its own: PEFT changes the one it is given.
                self.model = PeftModel.from_pretrained(self.load(), folder, adapter_name=name).eval()
            elif name not in self.model.peft_config:
                self.model.load_adapter(folder, adapter_name=name)
        return self.model.eval()


def decoder():
    source = {"gguf_file": GGUF} if (DECODER / GGUF).exists() else {}
    return AutoModelForCausalLM.from_pretrained(DECODER, dtype=torch.float32, **source).eval()


def encoder(labels):
    return AutoModelForSequenceClassification.from_pretrained(ENCODER, num_labels=labels, dtype=torch.float32).eval()


class Peft:
    def __init__(self):
        self.decoder = Wrapped(decoder)
        self.encoders = {}

    def generate(self, adapters=(), batch=8, prompt_tokens=32, output_tokens=64, seed=0):
        names = [Path(folder).name for folder in adapters]
        more = {}
        if not names:
            model = self.decoder.base()
        else:
            model = self.decoder.with_adapters(adapters)
            if len(names) == 1:
                model.set_adapter(names[0])
            else:
                more = {"adapter_names": [names[row % len(names)] for row in range(batch)]}
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(3, model.config.vocab_size, (batch, prompt_tokens), generator=generator)
        settings = {"max_new_tokens": output_tokens, "min_new_tokens": output_tokens, "do_sample": False,
                    "pad_token_id": 2, "use_cache": True}
        clock = Clock()
        with torch.inference_mode():
            start = time.perf_counter()
            model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **settings,
                           stopping_criteria=StoppingCriteriaList([clock]), **more)
            seconds = time.perf_counter() - start
        gaps = [after - before for before, after in zip(clock.at, clock.at[1:])]
        return point(batch, len(set(names)), batch * output_tokens, batch, seconds, [clock.at[0] - start], gaps)

    def classify(self, adapters, lengths, labels=4, seed=0):
        wrapped = self.encoders.setdefault(labels, Wrapped(lambda: encoder(labels)))
        model = wrapped.with_adapters(adapters)
        generator = torch.Generator().manual_seed(seed)
        texts = [torch.randint(1000, model.config.vocab_size, (length,), generator=generator) for length in lengths]
        batches = []
        for number, folder in enumerate(adapters):
            own = texts[number::len(adapters)]
            ids = torch.nn.utils.rnn.pad_sequence(own, batch_first=True)
            mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(text) for text in own], batch_first=True)
            batches.append((Path(folder).name, ids, mask))
        answered = []
        with torch.inference_mode():
            start = time.perf_counter()
            for name, ids, mask in batches:
                model.set_adapter(name)
                model(input_ids=ids, attention_mask=mask).logits.tolist()
                answered += [time.perf_counter() - start] * len(ids)
            seconds = time.perf_counter() - start
        return point(len(texts), len(adapters), 0, len(texts), seconds, answered, [])

    def run(self, case):
        case = dict(case)
        return getattr(self, {"generate": "generate", "classify": "classify"}[case.pop("case")])(**case)


def median(case, repetitions):
    """The repetition in the middle by throughput, after one that is not counted."""
    peft = Peft()
    peft.run(case)
    points = sorted((peft.run(case) for _ in range(repetitions)), key=lambda point: point["requests_per_s"])
    return points[len(points) // 2]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=["generate", "classify", "serve"])
    parser.add_argument("--adapters", nargs="*", default=[], metavar="FOLDER")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--lengths", default=",".join(str(5 + 45 * n // 63) for n in range(64)), metavar="N,...")
    parser.add_argument("--labels", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.case == "serve":
        peft = Peft()
        for line in sys.stdin:
            print(json.dumps(peft.run(json.loads(line))), flush=True)
        return
    case = {"case": options.case, "adapters": options.adapters}
    if options.case == "generate":
        case |= {"batch": options.batch, "prompt_tokens": options.prompt_tokens, "output_tokens": options.output_tokens}
    else:
        case |= {"lengths": [int(length) for length in options.lengths.split(",")], "labels": options.labels}
    print(json.dumps(median(case, options.repetitions)))


if __name__ == "__main__":
    main()

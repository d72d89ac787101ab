#!/usr/bin/env python3
"""Measures mistral.rs on the CPU in f32: one JSON line per point, with the fields of `repertoire bench --json` that apply.

  RAYON_NUM_THREADS=2 PYTHON benches/peers/mistral_rs/measure.py [--batch 1,8] [--adapters FOLDER ...] [--model FOLDER]

A point is a wave of requests at once, each from a thread of its own, as clients of a server would send them. With adapters
(PEFT folders), each request takes the next one. Answers of this interface come whole, so there is no time to the first token
and none between tokens; `output_tokens_per_s` counts from the first request to the last answer, prompts included.
"""
import argparse
import json
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# Unset, its pools take all cores, and every product counts them.
os.environ.setdefault("RAYON_NUM_THREADS", "2")

from mistralrs import CompletionRequest, LoraAdapter, ModelDType, Runner, Which

WORK = Path(os.environ.get("PEERS_WORK", Path(__file__).resolve().parents[1] / ".work"))
WORDS = ("the of and to in is it that for was on are as with his they at be this from have or by one had not but what all "
         "were when we").split()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=WORK / "smollm2-135m-f32")
    parser.add_argument("--batch", default="1,8", metavar="N,...")
    parser.add_argument("--adapters", nargs="*", default=[], metavar="FOLDER")
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    adapters = [LoraAdapter(Path(folder).name, str(folder)) for folder in options.adapters]
    model = {"model_id": str(options.model), "dtype": ModelDType.F32}
    which = Which.Lora(**model, adapters=adapters) if adapters else Which.Plain(**model)
    # A prefix cache would spare it prompts that others compute.
    runner = Runner(which=which, max_seqs=32, prefix_cache_n=0)
    rng = random.Random(1)

    def ask(number):
        # A word is a token, and the prompt is like no other.
        prompt = "a " + " ".join(rng.choice(WORDS) for _ in range(options.prompt_tokens - 1))
        adapter = adapters[number % len(adapters)].alias if adapters else None
        request = CompletionRequest(prompt=prompt, model="default", max_tokens=options.output_tokens, temperature=0.0,
                                    ignore_eos=True, adapter=adapter)
        return runner.send_completion_request(request).usage

    for batch in map(int, options.batch.split(",")):
        points = []
        for repetition in range(options.repetitions + 1):
            with ThreadPoolExecutor(batch) as pool:
                start = time.perf_counter()
                usages = list(pool.map(ask, range(batch)))
                seconds = time.perf_counter() - start
            tokens = sum(usage.completion_tokens for usage in usages)
            lengths = sorted({usage.prompt_tokens for usage in usages})
            if repetition:
                points.append({"concurrency": batch, "adapters": len(adapters), "output_tokens_per_s": round(tokens / seconds, 3),
                               "requests_per_s": round(batch / seconds, 3), "errors": 0, "prompt_tokens": lengths})
        points.sort(key=lambda point: point["output_tokens_per_s"])
        print(json.dumps(points[len(points) // 2]), flush=True)


if __name__ == "__main__":
    main()

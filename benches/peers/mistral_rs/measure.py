#!/usr/bin/env python3
"""Measures mistral.rs on the CPU in f32: one JSON line per point, with the fields of `repertoire bench --json`.

  PYTHON benches/peers/mistral_rs/measure.py [--batch 1,8] [--adapters FOLDER ...] [--model FOLDER]

A point is a wave of streamed requests at once. With adapters (PEFT folders), each request takes the next one. Answers do not
end early, and the point of the middle by throughput is printed, of `--repetitions` after one that is not counted.
"""
import argparse
import json
import os
import random
import tempfile
import threading
import time
from pathlib import Path

# Read by the library when it is loaded. Unset, its pools take all cores, and every product counts them.
os.environ.setdefault("RAYON_NUM_THREADS", "2")
# Keys and values as everybody else has them here.
os.environ.setdefault("MISTRALRS_CPU_KV_F32", "1")
# Its log goes to standard output.
os.environ.setdefault("RUST_LOG", "off")

from mistralrs import ChatCompletionRequest, LoraAdapter, ModelDType, Runner, Which

WORK = Path(os.environ.get("PEERS_WORK", Path(__file__).resolve().parents[1] / ".work"))
WORDS = ("the of and to in is it that for was on are as with his they at be this from have or by one had not but what all "
         "were when we").split()


def percentiles(seconds):
    times = sorted(second * 1e3 for second in seconds)
    rank = lambda percent: round(times[max(-(-len(times) * percent // 100), 1) - 1], 3) if times else None
    return {"p50": rank(50), "p90": rank(90), "p99": rank(99)}


class Peer:
    def __init__(self, options):
        self.adapters = [LoraAdapter(Path(folder).name, str(folder)) for folder in options.adapters]
        model = {"model_id": str(options.model), "dtype": ModelDType.F32}
        which = Which.Lora(**model, adapters=self.adapters) if self.adapters else Which.Plain(**model)
        with tempfile.TemporaryDirectory() as folder:
            # The prompt is the text alone: a chat template would make it longer than others'.
            template = Path(folder) / "plain.jinja"
            template.write_text("{% for message in messages %}{{ message['content'] }}{% endfor %}")
            # A prefix cache would spare it prompts that others compute.
            self.runner = Runner(which=which, max_seqs=32, prefix_cache_n=0, jinja_explicit=str(template))
        self.options = options
        self.rng = random.Random(1)

    def stream(self, number):
        # A word is a token.
        prompt = "a " + " ".join(self.rng.choice(WORDS) for _ in range(self.options.prompt_tokens - 1))
        adapter = self.adapters[number % len(self.adapters)].alias if self.adapters else None
        request = ChatCompletionRequest(messages=prompt, model="default", max_tokens=self.options.output_tokens,
                                        temperature=0.0, ignore_eos=True, stream=True, adapter=adapter)
        return self.runner.send_chat_completion_request(request)

    def wave(self, batch):
        """All requests are in before an answer is listened to: the interface takes one call at a time."""
        start = time.perf_counter()
        streams = [self.stream(number) for number in range(batch)]
        heard = [[] for _ in streams]
        usages = [None] * batch

        def listen(number):
            for chunk in streams[number]:
                usages[number] = chunk.usage or usages[number]
                if chunk.choices and chunk.choices[0].delta.content:
                    heard[number].append(time.perf_counter())

        threads = [threading.Thread(target=listen, args=(number,)) for number in range(batch)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - start
        tokens = sum(usage.completion_tokens if usage else len(at) for usage, at in zip(usages, heard))
        gaps = [after - before for at in heard for before, after in zip(at, at[1:])]
        return {"concurrency": batch, "adapters": len(self.adapters), "output_tokens_per_s": round(tokens / seconds, 3),
                "requests_per_s": round(batch / seconds, 3), "ttft_ms": percentiles([at[0] - start for at in heard if at]),
                "itl_ms": percentiles(gaps), "errors": sum(not at for at in heard),
                "prompt_tokens": sorted({usage.prompt_tokens for usage in usages if usage})}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=WORK / "smollm2-135m-f32")
    parser.add_argument("--batch", default="1,8", metavar="N,...")
    parser.add_argument("--adapters", nargs="*", default=[], metavar="FOLDER")
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    peer = Peer(options)
    for batch in map(int, options.batch.split(",")):
        points = [peer.wave(batch) for _ in range(options.repetitions + 1)][1:]
        points.sort(key=lambda point: point["output_tokens_per_s"])
        print(json.dumps(points[len(points) // 2]), flush=True)


if __name__ == "__main__":
    main()

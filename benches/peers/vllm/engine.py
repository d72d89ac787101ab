#!/usr/bin/env python3
"""One vLLM engine and all that is measured with it; measure.py starts it."""
import argparse
import json
import os
import random
import sys
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from measure.gpu.shape import Shape
from measure.gpu.sizes import TINY, Sizes

RANK = 16


class Engine:
    """vLLM in this process, as its documentation shows it: compiled, with CUDA graphs of the batches that are measured."""

    def __init__(self, shape, sizes, work, adapters):
        from vllm import LLM
        self.shape, self.adapters = shape, adapters
        most = 2 * sizes.batch
        settings = dict(enable_lora=True, max_loras=sizes.batch, max_lora_rank=RANK, max_cpu_loras=2 * sizes.batch) if adapters else {}
        self.llm = LLM(model=str(shape.write(work / shape.name / "base")), load_format="dummy", skip_tokenizer_init=True,
                       dtype="bfloat16", seed=0, max_model_len=2048, max_num_seqs=max(most, *sizes.batches),
                       gpu_memory_utilization=0.85, generation_config="vllm",
                       compilation_config={"cudagraph_capture_sizes": sorted({*sizes.batches, most})}, **settings)
        self.rng = random.Random(7)

    def seconds(self, clients, prompt, output, numbers=None):
        """A batch that comes at once, to its last token. `numbers`: the adapter of each request."""
        from vllm import SamplingParams
        from vllm.lora.request import LoRARequest
        vocab = self.shape.config["vocab_size"]
        prompts = [{"prompt_token_ids": [self.rng.randrange(3, vocab - 3) for _ in range(prompt)]} for _ in range(clients)]
        settings = SamplingParams(temperature=0.0, max_tokens=output, ignore_eos=True, detokenize=False)
        requests = None
        if numbers is not None:
            requests = [LoRARequest(f"a{n}", n + 1, str(self.adapters[n])) for n in numbers]
        begun = time.perf_counter()
        answers = self.llm.generate(prompts, settings, use_tqdm=False, lora_request=requests)
        seconds = time.perf_counter() - begun
        assert all(len(answer.outputs[0].token_ids) == output for answer in answers), "an answer is short"
        return seconds


class Measured:
    """Writes figures down with the keys of benches/gpu.py."""

    def __init__(self, engine, sizes, repetitions, file):
        self.engine, self.sizes, self.repetitions, self.file = engine, sizes, repetitions, file

    def tell(self, row, value, unit, clients=None, **more):
        line = {"peer": "vllm", "row": row, "shape": self.engine.shape.name, "clients": clients, "value": round(value, 3),
                "unit": unit, **more}
        with self.file.open("a") as out:
            out.write(json.dumps(line) + "\n")

    def tokens(self, row, clients, numbers=None):
        prompt, output = self.sizes.prompt, self.sizes.output
        self.engine.seconds(clients, prompt, output, numbers)
        firsts, wholes = [], []
        for _ in range(self.repetitions):
            firsts.append(self.engine.seconds(clients, prompt, 1, numbers))
            wholes.append(self.engine.seconds(clients, prompt, output, numbers))
        first, whole = median(firsts), median(wholes)
        self.tell(row, clients * output / median(wholes), "tokens/s", clients, first_ms=round(first * 1e3, 3),
                  step_ms=round((whole - first) / (output - 1) * 1e3, 3),
                  rounds=[round(clients * output / seconds, 1) for seconds in wholes])

    def prefill(self, row, numbers=None):
        clients, prompt = self.sizes.batch, self.sizes.long_prompt
        times = [self.engine.seconds(clients, prompt, 1, numbers) for _ in range(self.repetitions + 1)][1:]
        self.tell(row, clients * prompt / median(times), "tokens/s", clients)

    def base(self):
        for clients in self.sizes.batches:
            self.tokens("base", clients)
        self.prefill("prefill-base")

    def lora(self):
        batch = self.sizes.batch
        for clients in self.sizes.batches:
            self.tokens("shared", clients, [0] * clients)
        for clients in (batch, 2 * batch):
            self.tokens("distinct", clients, [n % batch for n in range(clients)])
        self.prefill("prefill-distinct", list(range(batch)))
        self.first_token()

    def first_token(self):
        """New adapters come from their files; those that they drove out of the device come from the host."""
        batch, loras = self.sizes.batch, self.sizes.loras
        first = lambda numbers: [self.engine.seconds(1, self.sizes.prompt, 1, [n]) * 1e3 for n in numbers]
        first(range(batch))
        new = range(batch, loras)
        from_files, resident, from_host = first(new), first(new), first(range(loras - batch))
        for row, times in (("first-from-files", from_files), ("first-from-host", from_host)):
            self.tell(row, median(times) - median(resident), "ms", ms=round(median(times), 3), resident_ms=round(median(resident), 3))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape")
    parser.add_argument("mode", choices=["base", "lora"])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--lines", type=Path, required=True)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    shape, sizes = Shape.of(options.shape, options.tiny), TINY if options.tiny else Sizes()
    adapters = sorted((options.work / shape.name / "adapters").glob("bench-lora-*")) if options.mode == "lora" else []
    engine = Engine(shape, sizes, options.work, adapters)
    measured = Measured(engine, sizes, options.repetitions, options.lines)
    measured.base() if options.mode == "base" else measured.lora()
    # Its own processes need not end in order.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Measures a server's engine on a GPU: shapes of three sizes with random weights, bf16, prompt 128, output 128.

    benches/gpu.py --binary target/release/repertoire [--shapes 135m,1b,8b] [--work FOLDER] [--json FILE]

Needs a binary built with the feature `cuda`, and a GPU; no network, no models. Each point is `repertoire bench --in-process`;
the figure is output tokens per second, prompts included, of as many requests as the point says, and the median time between
tokens. `adapters` are LoRAs of rank 16 on all linear layers in bf16, made by the tool.
"""

import argparse
import json
import pathlib
import subprocess
import sys

LLAMA3 = dict(rope_type="llama3", low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)
SHAPES = {
    "135m": dict(hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
                 num_key_value_heads=3, head_dim=64, vocab_size=49152, max_position_embeddings=8192,
                 rope_theta=1e5, tie_word_embeddings=True),
    "1b": dict(hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
               num_key_value_heads=8, head_dim=64, vocab_size=128256, max_position_embeddings=131072,
               rope_theta=5e5, tie_word_embeddings=True, rope_scaling=dict(LLAMA3, factor=32.0)),
    "8b": dict(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
               num_key_value_heads=8, head_dim=128, vocab_size=128256, max_position_embeddings=131072,
               rope_theta=5e5, tie_word_embeddings=False, rope_scaling=dict(LLAMA3, factor=8.0)),
}
# Adapters, clients, requests.
POINTS = [("none", 1, 4), ("none", 8, 32), ("none", 32, 96), ("none", 64, 192),
          ("bench-lora-0000", 1, 4), ("bench-lora-0000", 32, 96), ("bench-lora-0000..0031", 32, 96)]


def prepare(work, name):
    """The configuration of a shape, as a file."""
    folder = work / name
    folder.mkdir(parents=True, exist_ok=True)
    shape = dict(model_type="llama", hidden_act="silu", torch_dtype="bfloat16", rms_norm_eps=1e-5, **SHAPES[name])
    (folder / "config.json").write_text(json.dumps(shape))
    config = work / f"{name}.toml"
    config.write_text(
        f'[[bases]]\nname = "base"\nsource = "dummy://{folder}"\n'
        f'[adapters]\nstore = "{work / (name + "-adapters")}"\ndevice_bytes = "8GiB"\n'
        "[scheduler]\nmax_running = 64\nmax_batch_tokens = 8192\n"
    )
    return config


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/repertoire")
    parser.add_argument("--shapes", default="135m,1b,8b")
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("target/bench-gpu"))
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    print("| shape | adapters | clients | tokens/s | ms between tokens | ms to the first |\n|---|---|---|---|---|---|")
    for name in arguments.shapes.split(","):
        common = ["--config", str(prepare(work, name))]
        make = ["--make-adapters", str(work / f"{name}-adapters"), "--count", "32", "--rank", "16"]
        make += ["--targets", "all-linear", "--dtype", "bf16"]
        subprocess.run([arguments.binary, "bench", *common, *make], check=True, stdout=subprocess.DEVNULL)
        for adapters, clients, requests in POINTS:
            load = ["--in-process", "--adapters", adapters, "--concurrency", str(clients), "--requests", str(requests)]
            load += ["--prompt-tokens", "128", "--output-tokens", "128", "--json"]
            run = subprocess.run([arguments.binary, "bench", *common, *load], capture_output=True, text=True)
            lines = [line for line in run.stdout.splitlines() if line.startswith("{")]
            if run.returncode or not lines:
                print(f"| {name} | {adapters} | {clients} | failed: {run.stderr.strip()[-200:]} | | |", flush=True)
                continue
            point = json.loads(lines[-1])
            tokens, between, first = point["output_tokens_per_s"], point["itl_ms"]["p50"], point["ttft_ms"]["p50"]
            print(f"| {name} | {adapters} | {clients} | {tokens:.0f} | {between:.2f} | {first:.1f} |", flush=True)
            if arguments.json:
                with arguments.json.open("a") as out:
                    out.write(json.dumps(dict(point, shape=name)) + "\n")


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Measures llama.cpp's server with `repertoire bench --api openai`: one JSON line per point, as that prints them.

  benches/peers/llama_cpp/measure.py [--batch 1,8] [--adapters FOLDER ...] [--peft-python PATH]

With adapters (PEFT folders; they are converted to GGUF by llama.cpp's own script, which needs a Python with transformers),
each of the eight requests of a point takes another one (`lora` in its body). llama.cpp computes requests with different
adapters one after the other, never in one batch. The point of the middle by throughput is printed, of `--repetitions` after
one that is not counted.
"""
import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
WORK = Path(os.environ.get("PEERS_WORK", ROOT / "benches/peers/.work"))
SOURCE = WORK / "llama_cpp/llama_cpp_python-0.3.36/vendor/llama.cpp"


def converted(folder, python, into):
    """An adapter as GGUF in f32."""
    file = into / f"{Path(folder).name}.gguf"
    if not file.exists():
        base = WORK / "smollm2-135m-f32"
        if not base.exists():
            subprocess.run([python, ROOT / "benches/peers/convert.py", base], check=True)
        into.mkdir(parents=True, exist_ok=True)
        subprocess.run([python, SOURCE / "convert_lora_to_gguf.py", "--base", base, "--outtype", "f32", "--outfile", file,
                        folder], check=True, stdout=sys.stderr, env=os.environ | {"PYTHONPATH": str(SOURCE / "gguf-py")})
    return file


def wait(url, process):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(600):
        try:
            opener.open(url + "/health", timeout=2).read()
            return
        except OSError:
            if process.poll() is not None:
                break
            time.sleep(0.1)
    sys.exit("llama-server did not start")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=WORK / "llama_cpp/smollm2-135m-f32.gguf")
    parser.add_argument("--batch", default="1,8", metavar="N,...")
    parser.add_argument("--adapters", nargs="*", default=[], metavar="FOLDER")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--repertoire", type=Path, default=ROOT / "target/release/repertoire")
    parser.add_argument("--peft-python", type=Path, default=WORK / "peft/bin/python")
    options = parser.parse_args()
    # The server must not outlive this.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    files = [converted(folder, options.peft_python, WORK / "llama_cpp/adapters") for folder in options.adapters]
    batches = [int(batch) for batch in options.batch.split(",")]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    slots = max(batches)
    # --no-cache-prompt: prompts are new anyway. Without --lora-init-without-apply all adapters would be applied at once.
    command = [WORK / "llama_cpp/build/bin/llama-server", "--model", options.model, "--port", str(port), "--threads",
               str(options.threads), "--threads-batch", str(options.threads), "--parallel", str(slots), "--ctx-size",
               str(slots * 512), "--no-cache-prompt", "--no-webui"]
    if files:
        command += ["--lora", ",".join(map(str, files)), "--lora-init-without-apply"]
    with open(WORK / "llama_cpp/server.log", "w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait(url, server)
        load = [options.repertoire, "bench", "--url", url, "--api", "openai", "--model", "smollm2", "--json",
                "--prompt-tokens", str(options.prompt_tokens), "--output-tokens", str(options.output_tokens)]
        if files:
            lora = {"lora": [{"id": "$adapter", "scale": 1.0}]}
            load += ["--adapters", f"0..{len(files) - 1}", "--body", json.dumps(lora)]
        for batch in batches:
            waves = ",".join([str(batch)] * (options.repetitions + 1))
            done = subprocess.run([*load, "--concurrency", waves, "--requests", str(batch)], stdout=subprocess.PIPE, text=True)
            points = [json.loads(line) for line in done.stdout.splitlines()][1:]
            if not points:
                sys.exit("repertoire bench measured nothing")
            points.sort(key=lambda point: point["output_tokens_per_s"])
            print(json.dumps(points[len(points) // 2]), flush=True)
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()

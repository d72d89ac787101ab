#!/usr/bin/env python3
"""Measures vLLM on a GPU: the shapes, batches, prompts and adapters of benches/gpu.py, one JSON line per figure with its keys.

  benches/peers/vllm/measure.py --site FOLDER --work target/bench-gpu --json vllm.jsonl [--shapes 1b] [--modes base,lora]

FOLDER holds an unpacked vLLM (`pip install --target FOLDER vllm`), on top of the packages of the Python that runs this. Adapters are
those of benches/gpu.py, made by `repertoire bench`. An engine takes one to three minutes to start, so each measures all it can, and is
a process of its own.
"""
import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from measure.gpu.place import Place

# An engine that starts in the minute in which another ended may hang; this pause was enough.
PAUSE = 12
# No network, nothing reported, no plugins; one machine; no multicast between GPUs.
ENVIRONMENT = dict(
    HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false", DO_NOT_TRACK="1",
    VLLM_NO_USAGE_STATS="1", VLLM_PLUGINS="", VLLM_USE_FLASHINFER_SAMPLER="0", VLLM_HOST_IP="127.0.0.1", VLLM_LOGGING_COLOR="0",
    GLOO_SOCKET_IFNAME="lo", NCCL_SOCKET_IFNAME="lo", NCCL_NVLS_ENABLE="0", TORCH_SYMM_MEM_DISABLE_MULTICAST="1",
    NVSHMEM_DISABLE_NVLS="1", PYTORCH_NVML_BASED_CUDA_CHECK="1",
)


def environment(options):
    cache = options.work / "vllm-cache"
    shipped = options.site / "_vllm_cache/modelinfos"
    if shipped.is_dir():
        # What it knows of models: it would start another interpreter to learn it.
        (cache / "modelinfos").mkdir(parents=True, exist_ok=True)
        for file in shipped.iterdir():
            (cache / "modelinfos" / file.name).write_bytes(file.read_bytes())
    return {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(options.site), "VLLM_CACHE_ROOT": str(cache)}


def run(options, shape, mode, seconds):
    """Runs an engine to its end, or so long; its lines."""
    log = options.work / "logs" / f"vllm-{shape}-{mode}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    lines, out = options.work / "logs" / f"vllm-{shape}-{mode}.jsonl", []
    lines.unlink(missing_ok=True)
    command = [sys.executable, HERE / "engine.py", shape, mode, "--work", options.work, "--lines", lines,
               "--repetitions", options.repetitions, *(["--tiny"] if options.tiny else [])]
    with log.open("w") as text:
        process = subprocess.Popen(list(map(str, command)), env=environment(options), stdout=text, stderr=text,
                                   start_new_session=True)
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        pass
    finally:
        # Its own children, too.
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        failed = process.wait() != 0
    if lines.exists():
        out = [json.loads(line) for line in lines.read_text().splitlines()]
    if failed:
        print(f"# {shape} {mode} did not end by itself: see {log}", flush=True)
        print("".join(f"#   {line}\n" for line in log.read_text(errors="replace").splitlines()[-15:]), flush=True)
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--site", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--binary", type=Path, default=Path("target/release/repertoire"), help="makes adapters")
    parser.add_argument("--work", type=Path, default=Path("target/bench-gpu"), help="as for benches/gpu.py")
    parser.add_argument("--shapes", default="8b,1b,135m")
    parser.add_argument("--modes", default="base,lora", help="an engine without adapters, and one with")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=560, help="ends after so long, whatever is measured")
    parser.add_argument("--engine-seconds", type=float, default=280, help="the most that an engine may take")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="adds the lines")
    options = parser.parse_args()
    options.site, options.work = options.site.resolve(), options.work.resolve()
    place = Place(options.binary, options.work, options.tiny)
    until, pause = time.monotonic() + options.seconds, 0
    for shape in options.shapes.split(","):
        for mode in options.modes.split(","):
            time.sleep(pause)
            left = until - time.monotonic()
            if left < 60:
                print(f"# {shape} {mode}: no time left", flush=True)
                continue
            begun, pause = time.monotonic(), PAUSE
            if mode == "lora":
                place.loras(place.shape(shape))
            lines = run(options, shape, mode, min(left, options.engine_seconds))
            print(f"# {shape} {mode}: {time.monotonic() - begun:.0f} s", flush=True)
            for line in lines:
                print(json.dumps(line), flush=True)
                if options.json:
                    with options.json.open("a") as out:
                        out.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()

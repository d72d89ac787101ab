"""How fast this machine's device copies its own memory: what a step that touches so many bytes can at best take."""
import json
import subprocess

from ..bench import Failed

# In a process of its own: its memory goes with it.
SCRIPT = """
import json, time
import torch
device = "cuda" if torch.cuda.is_available() else "cpu"
a = torch.ones(2**31 if device == "cuda" else 2**26, dtype=torch.uint8, device=device)
b = torch.empty_like(a)
def copied():
    if device == "cpu":
        start = time.perf_counter()
        b.copy_(a)
        return time.perf_counter() - start
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    b.copy_(a)
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3
times = sorted(copied() for _ in range(22))
print(json.dumps(2 * a.numel() / times[len(times) // 2]))
"""


def copy_rate(python):
    """Bytes per second, those read and those written, by a Python that has torch."""
    run = subprocess.run([python, "-c", SCRIPT], capture_output=True, text=True)
    if run.returncode:
        raise Failed(f"the copy rate cannot be measured: {run.stderr.strip()[-200:]} (--copy-rate BYTES_PER_S gives it)")
    return json.loads(run.stdout)

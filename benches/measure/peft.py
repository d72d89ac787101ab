"""PEFT in a process of its own, which measures a case whenever it is told to."""
import json
import subprocess

from .bench import Failed
from .place import PEERS


class Peft:
    """benches/peers/peft/measure.py, with everything loaded after the first case."""

    def __init__(self, place):
        self.log = place.logs / "peft.log"
        command = [place.peft(), PEERS / "peft/measure.py", "serve", "--threads", str(place.threads)]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)

    def point(self, **case):
        try:
            self.process.stdin.write(json.dumps(case) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        line = self.process.stdout.readline()
        if not line:
            raise Failed(f"PEFT ended (log: {self.log})")
        return json.loads(line)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(timeout=30)

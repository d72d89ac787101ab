"""Processes of `repertoire bench`, each ready to measure a point whenever it is told to."""
import json
import subprocess
import threading
from itertools import count

# A base may have to be loaded first.
READY_SECONDS = 300
NUMBERS = count()


class Failed(Exception):
    """A row that cannot be measured, and why."""


class Bench:
    """A load. Its process loads and calibrates once, then measures a point for every call."""

    def __init__(self, place, *flags, clients=8):
        number = next(NUMBERS)
        self.log = place.logs / f"bench-{number}.log"
        self.trace_file = place.logs / f"bench-{number}.jsonl"
        command = [place.binary, "bench", "--wait", "--json", "--trace", self.trace_file,
                   "--concurrency", str(clients), *map(str, flags)]
        self.process = subprocess.Popen(command, cwd=place.work, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True)
        self.points = 0
        self.ready = threading.Semaphore(0)
        self.tail = []
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        with open(self.log, "w", buffering=1) as log:
            for line in self.process.stderr:
                log.write(line)
                self.tail = [*self.tail[-5:], line.strip()]
                if line.startswith("waiting for a line"):
                    self.ready.release()
        # It ended, and whoever waits must hear of it.
        self.ready.release()

    def begin(self, *flags):
        """Starts a point; flags change the load from now on."""
        if not self.ready.acquire(timeout=READY_SECONDS) or self.process.poll() is not None:
            self._fail()
        try:
            self.process.stdin.write(" ".join(map(str, flags)) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            self._fail()

    def end(self):
        """Waits for the point's end and answers its figures."""
        line = self.process.stdout.readline()
        if not line:
            self._fail()
        self.points += 1
        point = json.loads(line)
        if point["errors"]:
            raise Failed(f"{point['errors']} requests failed: {' | '.join(self.tail)} (log: {self.log})")
        return point

    def point(self, *flags):
        self.begin(*flags)
        return self.end()

    def wait_until_ready(self):
        """Loading and calibration must not disturb what others measure."""
        if not self.ready.acquire(timeout=READY_SECONDS) or self.process.poll() is not None:
            self._fail()
        self.ready.release()

    def trace(self):
        """The requests of the last point."""
        lines = [json.loads(line) for line in open(self.trace_file)]
        return [line for line in lines if line["point"] == self.points - 1]

    def _fail(self):
        self.process.terminate()
        self.process.wait()
        raise Failed(f"repertoire bench ended: {' | '.join(self.tail)} (log: {self.log})")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()

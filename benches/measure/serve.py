"""A server of our own on a free port."""
import socket
import subprocess
import time
import urllib.error
import urllib.request

from .bench import READY_SECONDS, Failed


class Serve:
    """`repertoire serve` until the block ends."""

    def __init__(self, place, base, store, *settings):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        self.url = f"http://{address}"
        self.log = place.logs / "serve.log"
        command = [place.binary, "serve", "--listen", address, *place.settings(base, store, *settings)]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(command, cwd=place.work, stdout=log, stderr=log)

    def __enter__(self):
        # No proxy stands between us and this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        until = time.monotonic() + READY_SECONDS
        while time.monotonic() < until and self.process.poll() is None:
            try:
                opener.open(self.url + "/ready", timeout=5).read()
                return self
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        self.process.kill()
        raise Failed(f"repertoire serve did not start (log: {self.log})")

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self.process.kill()

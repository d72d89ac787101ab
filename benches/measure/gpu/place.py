"""Where a run happens: the binary, made bases and adapters, logs, and the one process that has the GPU."""
import json
import os
import subprocess

from ..bench import Failed
from .copy_rate import copy_rate
from .engine import Engine
from .shape import Shape
from .sizes import TINY, Sizes

# Every linear layer, in the precision of the base.
LORA = ("--targets", "all-linear", "--dtype", "bf16")


class Place:
    def __init__(self, binary, work, tiny=False, repetitions=3, python=None, copy_rate=None):
        self.binary = binary.resolve()
        if not self.binary.exists():
            raise SystemExit(f"{self.binary} does not exist: cargo build --release --features cuda, or --binary PATH")
        self.work = work.resolve()
        self.repetitions = repetitions
        self.sizes = TINY if tiny else Sizes()
        self.tiny = tiny
        self.python = python
        self.logs = self.work / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self._main = None
        self._copy_rate = copy_rate
        # What main processes measured, by shape: it outlives them.
        self.known = {}

    def shape(self, name):
        return Shape.of(name, self.tiny)

    def settings(self, shape, store, *more):
        """Flags that configure a process of `repertoire`."""
        source = f"dummy://{shape.write(self.work / shape.name / 'base')}"
        sets = [f"bases.0.name={shape.name}", f"bases.0.source={source}", f"adapters.store={store}",
                "adapters.device_bytes=8GiB", "scheduler.max_running=64", "scheduler.max_batch_tokens=8192",
                f"database.url=sqlite://{self.work / 'data/repertoire.db'}", *more]
        return [flag for setting in sets for flag in ("--set", setting)]

    def copy_rate(self):
        """Bytes per second, read and written, of a large copy on the device."""
        if self._copy_rate is None:
            self._copy_rate = copy_rate(self.python)
        return self._copy_rate

    def main(self, shape):
        """The process of a shape that most rows are measured in; any other ends first."""
        if self._main and (self._main.shape != shape or self._main.ended()):
            self.release()
        if not self._main:
            store = self.loras(shape)
            self._main = Engine(self, shape, store, known=self.known.setdefault(shape.name, {}))
        return self._main

    def release(self):
        """Gives the GPU to whoever comes next."""
        if self._main:
            self._main.close()
            self._main = None

    def store(self, shape, name):
        store = self.work / shape.name / name
        store.mkdir(parents=True, exist_ok=True)
        return store

    def make(self, shape, store, count, kind, *flags):
        """Makes adapters in a store, once."""
        if (store / f"bench-{kind}-{count - 1:04}" / "adapter_config.json").exists():
            return
        command = [self.binary, "bench", "--make-adapters", store, "--count", str(count), "--kind", kind, "--seed", "1",
                   *flags, *self.settings(shape, store)]
        made = subprocess.run(command, cwd=self.work, capture_output=True, text=True)
        if made.returncode:
            raise Failed(f"adapters cannot be made: {made.stderr.strip()}")

    def loras(self, shape):
        """The store of a shape's LoRAs of rank 16 on all linear layers."""
        store = self.store(shape, "adapters")
        self.make(shape, store, self.sizes.loras, "lora", "--rank", "16", *LORA)
        return store

    def linked(self, shape, name, count, source):
        """A store of `count` LoRAs with the weights of those in `source`, in turn.

        Each is an adapter of its own to a server, as its configuration differs; on the disk it is a link.
        """
        store = self.store(shape, name)
        folders = sorted(source.glob("bench-lora-*"))
        for number in range(count):
            like, folder = folders[number % len(folders)], store / f"bench-lora-{number:04}"
            if folder.exists():
                continue
            folder.mkdir()
            os.link(like / "adapter_model.safetensors", folder / "adapter_model.safetensors")
            config = json.loads((like / "adapter_config.json").read_text())
            (folder / "adapter_config.json").write_text(json.dumps(dict(config, revision=str(number))))
        return store


def adapter_bytes(folder):
    """Bytes of an adapter's tensors."""
    file = folder / "adapter_model.safetensors"
    with file.open("rb") as start:
        header = int.from_bytes(start.read(8), "little")
    return file.stat().st_size - 8 - header


def lora(first, last=None):
    """The name of a made LoRA, or of a range of them."""
    return f"bench-lora-{first:04}" + ("" if last is None else f"..{last:04}")

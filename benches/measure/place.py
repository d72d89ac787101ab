"""Where a run happens: binaries, models, made adapters, logs."""
import shutil
import subprocess
from pathlib import Path

from .bench import Failed

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / "benches/peers"
GGUF = "models/smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf"


class Base:
    """A base as `repertoire` is told of it."""

    def __init__(self, name, source):
        self.name = name
        self.source = source

    def sets(self):
        # The KV blocks of a batch of streams; several processes hold them at once.
        return [f"bases.0.name={self.name}", f"bases.0.source={self.source}", "bases.0.device_memory=512MiB"]


class Place:
    """The options of a run, and what is derived from them."""

    def __init__(self, options):
        self.binary = options.repertoire.resolve()
        self.threads = options.threads
        self.quick = options.quick
        self.repetitions = options.repetitions or (2 if options.quick else 5)
        self.work = options.work.resolve()
        self.dummy = options.dummy
        self.peft_python = options.peft_python
        if not self.binary.exists():
            raise SystemExit(f"{self.binary} does not exist: cargo build --release, or --repertoire PATH")
        self.stores = 0
        self.logs = self.work / "logs"
        shutil.rmtree(self.logs, ignore_errors=True)
        self.logs.mkdir(parents=True)

    def decoder(self):
        return self._base("smollm2", GGUF, "benches/shapes/smollm2-135m")

    def encoder(self):
        return self._base("minilm", "models/minilm", "benches/shapes/minilm")

    def _base(self, name, source, shape):
        if self.dummy:
            return Base(name, f"dummy://{ROOT / shape}")
        if not (ROOT / source).exists():
            raise Failed(f"{source} is not there: scripts/fetch_models.py fetches it")
        return Base(name, ROOT / source)

    def peft(self):
        """The Python that has PEFT."""
        python = self.peft_python or PEERS / ".work/peft/bin/python"
        if not python.exists():
            raise Failed(f"{python} does not exist: benches/peers/peft/setup.sh, or --peft-python PATH")
        return python

    def less(self, full, quick):
        """A size that --quick makes smaller."""
        return quick if self.quick else full

    def settings(self, base, store, *more):
        """Flags that configure a process of `repertoire`."""
        sets = [*base.sets(), f"adapters.store={store}", f"server.threads={self.threads}",
                f"database.url=sqlite://{self.work / 'data/repertoire.db'}", *more]
        return [flag for setting in sets for flag in ("--set", setting)]

    def empty_store(self):
        """A store without adapters: one of its own for each process, as a store has one owner."""
        self.stores += 1
        store = self.work / f"adapters/none-{self.stores}"
        store.mkdir(parents=True, exist_ok=True)
        return store

    def adapters(self, base, store, count, kind, *flags):
        """A store with `count` made adapters, and their names as `--adapters` takes them. Made once."""
        store = self.work / ("adapters-dummy" if self.dummy else "adapters") / store
        first, last = f"bench-{kind}-0000", f"bench-{kind}-{count - 1:04}"
        if not (store / last / "adapter_config.json").exists():
            store.mkdir(parents=True, exist_ok=True)
            command = [self.binary, "bench", "--make-adapters", store, "--count", str(count), "--kind", kind, "--seed", "1",
                       *flags, *self.settings(base, self.empty_store())]
            made = subprocess.run(command, cwd=self.work, capture_output=True, text=True)
            if made.returncode:
                raise Failed(f"adapters cannot be made: {made.stderr.strip()}")
        return store, f"{first}..{last[-4:]}"

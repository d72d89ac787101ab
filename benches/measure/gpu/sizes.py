"""How much is measured of everything."""
from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    prompt: int = 128
    output: int = 128
    long_prompt: int = 1024
    short_prompt: int = 4
    # Requests at once.
    batches: tuple = (1, 8, 32, 64)
    # The batch that most rows speak of, and as many adapters.
    batch: int = 32
    # LoRAs of a base: those of a batch, and some that are not among them.
    loras: int = 40
    registered: int = 1000
    many: int = 2000
    # Different weights among the many: more than a processor's cache holds.
    different: int = 100
    # Requests of a closed loop, in batches.
    loop: int = 3
    zipf_loop: int = 12
    texts: int = 512
    text_tokens: int = 50
    streams: int = 31
    loads_per_s: int = 10
    load_seconds: float = 2.0


TINY = Sizes(prompt=8, output=6, long_prompt=32, short_prompt=2, batches=(1, 2, 6), batch=6, loras=8, registered=12, many=20, different=3,
             loop=2, zipf_loop=2, texts=12, text_tokens=10, streams=3, loads_per_s=5,
             load_seconds=1.0)

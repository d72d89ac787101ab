"""Rows by name, in the order in which a shape's are measured, and the shapes they are of. Each takes a place and a shape."""
from .adapters import added, mixed, one
from .classify import classify
from .first_token import first_token
from .http import http
from .loads import loads
from .many import registered, zipf
from .start import start
from .step import share
from .tokens import base, distinct, prefill, shared

DECODERS = ("135m", "1b", "8b")
# Those of a shape's main process first: what comes after ends it.
ALL = {
    "share": (share, DECODERS),
    "base": (base, DECODERS),
    "shared": (shared, DECODERS),
    "distinct": (distinct, DECODERS),
    "prefill": (prefill, DECODERS),
    "added": (added, DECODERS),
    "one": (one, DECODERS),
    "mixed": (mixed, ("1b",)),
    "http": (http, ("1b",)),
    "first-token": (first_token, ("1b", "8b")),
    "registered": (registered, ("1b",)),
    "zipf": (zipf, ("1b",)),
    "loads": (loads, ("1b",)),
    "classify": (classify, ("bert",)),
    "start": (start, ("8b",)),
}

"""The rows of the table by name. Each takes a place and answers its ratios."""
from .batch import adapter_bytes, distinct_vs_base, distinct_vs_peft, mixed_kinds, thousand_registered, zipf
from .classify import classify
from .http import http_cost
from .prefix import shared_prefix
from .streams import cold_loads, long_prompt

ALL = {
    "distinct-vs-peft": distinct_vs_peft,
    "adapter-bytes": adapter_bytes,
    "distinct-vs-base": distinct_vs_base,
    "mixed-kinds": mixed_kinds,
    "thousand-registered": thousand_registered,
    "zipf": zipf,
    "classify": classify,
    "shared-prefix": shared_prefix,
    "long-prompt": long_prompt,
    "cold-loads": cold_loads,
    "http-cost": http_cost,
}

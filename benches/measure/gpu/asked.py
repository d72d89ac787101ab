"""What is asked of a figure: by itself, and against a peer's."""

# Row, shape and requests at once (None: any): the least, the most.
ALONE = {
    ("share", "8b", None): (0.82, None),
    ("share", "1b", None): (0.70, None),
    ("added", "8b", None): (None, 1.5),
    ("added", "1b", None): (None, 2.5),
    ("one", "8b", None): (0.94, None),
    ("one", "1b", None): (0.85, None),
    ("one", "135m", None): (0.70, None),
    ("mixed", "1b", None): (1.0, None),
    ("registered", "1b", None): (0.99, None),
    ("zipf", "1b", None): (0.90, None),
    ("first-from-host", "1b", None): (None, 3.0),
    ("first-from-host", "8b", None): (None, 5.0),
    ("first-from-files", "1b", None): (None, 30.0),
    ("first-from-files", "8b", None): (None, 60.0),
    ("loads", "1b", None): (None, 1.2),
    ("classify", "bert", None): (25_000, None),
    ("start", "8b", None): (None, 10.0),
    ("capture", "8b", None): (None, 2.0),
}
# The same, of the ratio to a peer's figure: the least.
AGAINST = {
    ("base", "8b", 8): 1.05,
    ("base", "8b", 32): 1.05,
    ("base", "8b", 64): 1.05,
    ("base", "1b", 32): 1.3,
    ("base", "135m", 1): 2.5,
    ("base", "135m", 32): 2.5,
    ("prefill-base", "8b", None): 0.85,
    ("prefill-base", "1b", None): 0.85,
    ("prefill-base", "135m", None): 0.85,
    ("prefill-distinct", "8b", None): 1.3,
    ("prefill-distinct", "1b", None): 1.7,
    ("prefill-distinct", "135m", None): 1.7,
    ("distinct", "8b", 32): 2.2,
    ("distinct", "1b", 32): 3.2,
    ("distinct", "135m", 32): 4.0,
}


def _find(table, line):
    row, shape = line["row"], line["shape"]
    return table.get((row, shape, line.get("clients")), table.get((row, shape, None)))


def alone(line):
    """What is asked of a line, in words, and whether it is met; nothing where nothing is asked."""
    least, most = _find(ALONE, line) or (None, None)
    if least is not None:
        return f"≥ {least:g}", line["value"] >= least
    if most is not None:
        return f"≤ {most:g}", line["value"] <= most
    return None


def against(line, ratio):
    """The same of its ratio to a peer's figure."""
    least = _find(AGAINST, line)
    return None if least is None else (f"≥ {least:g}", ratio >= least)

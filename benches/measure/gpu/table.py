"""Lines as people read them, beside a peer's and what is asked."""
from . import asked


def key(line):
    return line["row"], line["shape"], line.get("clients")


def number(value):
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _verdict(found):
    if found is None:
        return ""
    text, met = found
    return f"{text}" if met else f"{text}, **short**"


def cells(line, peers):
    """A line's cells: row, shape, requests at once, figure, asked, the peer's figure, ratio, asked."""
    names = [line["row"], line["shape"], str(line.get("clients") or "")]
    if "failed" in line:
        return [*names, f"not measured: {line['failed'].replace('|', '/')}", "", "", "", ""]
    peer = peers.get(key(line))
    own = [f"{number(line['value'])} {line['unit']}", _verdict(asked.alone(line))]
    if peer is None:
        return [*names, *own, "", "", ""]
    if not line["unit"].endswith("/s"):
        # Extra times are differences: their ratio says nothing.
        return [*names, *own, number(peer["value"]), "", ""]
    ratio = line["value"] / peer["value"]
    return [*names, *own, number(peer["value"]), f"{ratio:.2f}", _verdict(asked.against(line, ratio))]


def markdown(lines, peers):
    head = ["row", "shape", "at once", "measured", "asked", "vLLM", "ratio", "asked"]
    rows = [head, ["---"] * len(head), *(cells(line, peers) for line in lines)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def words(line, peers):
    """A line for a terminal, with what else it says."""
    known = {"row", "shape", "clients", "value", "unit", "failed"}
    more = "; ".join(f"{name} {value}" for name, value in line.items() if name not in known)
    return "  ".join(cell for cell in cells(line, peers) if cell) + (f"  ({more})" if more else "")

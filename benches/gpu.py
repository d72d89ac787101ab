#!/usr/bin/env python3
"""Measures the table of docs/BENCHMARKS.md for GPUs on this machine. Python's standard library only, but for the copy rate.

  benches/gpu.py --binary target/release/repertoire                     every row of every shape
  benches/gpu.py --rows base,distinct --shapes 1b --json rows.jsonl     some; a JSON line per figure is added to a file
  benches/gpu.py --rows zipf --peer vllm.jsonl --markdown table.md      beside what benches/peers/vllm/measure.py measured
  benches/gpu.py --rows none --from rows.jsonl --markdown table.md      a table of what was measured before
  benches/gpu.py --tiny                                                 tiny shapes: does everything run?

It needs a binary built with the feature `cuda`, and a GPU; no network and no models. Shapes have random weights in bf16, and
adapters are made by the tool. A figure is the median of rounds of requests that come at once, after one that is not counted.
"""
import argparse
import json
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from measure.bench import Failed
from measure.gpu.place import Place
from measure.gpu.rows import ALL
from measure.gpu.table import key, markdown, words

SHAPES = ("135m", "1b", "8b", "bert")


def listed(known, text, parser):
    names = [name for name in text.split(",") if name != "none"]
    if unknown := [name for name in names if name not in known]:
        parser.error(f"unknown: {unknown[0]!r}; known: {', '.join(known)}")
    return names


def read(file):
    return [json.loads(line) for line in file.read_text().splitlines() if line.startswith("{")] if file else []


def measure(place, rows, shapes):
    """Lines as they are measured, shape by shape: each has one main process."""
    for shape in map(place.shape, shapes):
        for row in rows:
            of, known = ALL[row]
            if shape.name not in known:
                continue
            try:
                for line in of(place, shape):
                    yield line.json()
            except Failed as error:
                yield {"row": row, "shape": shape.name, "failed": str(error)}
    place.release()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, default=Path("target/release/repertoire"))
    parser.add_argument("--rows", metavar="ROW,...", default=",".join(ALL), help=f"some of: {', '.join(ALL)}; or none")
    parser.add_argument("--shapes", metavar="SHAPE,...", default=",".join(SHAPES), help=f"some of: {', '.join(SHAPES)}")
    parser.add_argument("--repetitions", type=int, default=3, help="rounds that are counted (default: 3)")
    parser.add_argument("--work", type=Path, default=Path("target/bench-gpu"),
                        help="made bases and adapters, and logs; a folder in memory is best (24 GB)")
    parser.add_argument("--python", default=sys.executable, help="a Python with torch, which measures the copy rate")
    parser.add_argument("--copy-rate", type=float, metavar="BYTES_PER_S", help="in place of measuring it")
    parser.add_argument("--tiny", action="store_true", help="for trying, also without a GPU")
    parser.add_argument("--json", type=Path, metavar="FILE", help="adds a JSON line per figure")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="writes the table into FILE")
    parser.add_argument("--peer", type=Path, metavar="FILE", help="a peer's JSON lines")
    parser.add_argument("--from", type=Path, metavar="FILE", dest="before", help="JSON lines of runs before, for the table")
    options = parser.parse_args()
    # What was started must not outlive this.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    rows, shapes = listed(ALL, options.rows, parser), listed(SHAPES, options.shapes, parser)
    peers = {key(line): line for line in read(options.peer)}
    # What was measured again replaces what was measured before.
    lines = list({key(line): line for line in read(options.before)}.values())
    if rows:
        place = Place(options.binary, options.work, options.tiny, options.repetitions, options.python, options.copy_rate)
        begun = time.monotonic()
        for line in measure(place, [row for row in ALL if row in rows], shapes):
            lines.append(line)
            print(f"{time.monotonic() - begun:6.1f} s  {words(line, peers)}", flush=True)
            if options.json:
                with options.json.open("a") as out:
                    out.write(json.dumps(line) + "\n")
    if options.markdown or not rows:
        table = markdown(lines, peers)
        print("\n" + table)
        if options.markdown:
            options.markdown.write_text(table)
    sys.exit(any("failed" in line for line in lines))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Measures the table of docs/BENCHMARKS.md on this machine. Python's standard library only.

  benches/table.py                              every row: JSON lines, then the table
  benches/table.py --only long-prompt,cold-loads --repetitions 9
  benches/table.py --quick                      few repetitions and short answers: does everything run?
  benches/table.py --markdown docs/table.md     writes the table into a file, too

Each row is a ratio of two sides that are measured in turn (A, B, A, B, ...) within one run, after a round that is not counted:
the median of A over the median of B, and the lowest and highest ratio of a neighbouring pair. It needs the models
(scripts/fetch_models.py), a release build (cargo build --release) and, for the rows against PEFT, benches/peers/peft/setup.sh.
"""
import argparse
import json
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from measure import rows
from measure.bench import Failed
from measure.place import ROOT, Place
from measure.table import markdown


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="ROW,...", help=f"some of: {', '.join(rows.ALL)}")
    parser.add_argument("--quick", action="store_true", help="for trying: two repetitions, short answers")
    parser.add_argument("--repetitions", type=int, help="of each side (default: 5; with --quick: 2)")
    parser.add_argument("--threads", type=int, default=2, help="compute threads of every side (default: 2)")
    parser.add_argument("--repertoire", type=Path, default=ROOT / "target/release/repertoire", metavar="PATH")
    parser.add_argument("--peft-python", type=Path, metavar="PATH", help="a Python with benches/peers/peft/requirements.txt")
    parser.add_argument("--work", type=Path, default=ROOT / "target/bench-table", help="made adapters, logs and traces")
    parser.add_argument("--dummy", action="store_true", help="random weights in place of the models (not for figures)")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also writes the table into FILE")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else list(rows.ALL)
    if unknown := [name for name in names if name not in rows.ALL]:
        parser.error(f"unknown row {unknown[0]!r}; known: {', '.join(rows.ALL)}")
    # What was started must not outlive this.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    place = Place(options)
    measured = []
    for name in names:
        try:
            lines = [ratio.line() for ratio in rows.ALL[name](place)]
        except Failed as error:
            lines = [{"row": name, "failed": str(error)}]
        for line in lines:
            measured.append(line)
            print(json.dumps(line), flush=True)
    table = markdown(measured)
    print("\n" + table)
    if options.markdown:
        options.markdown.write_text(table)
    sys.exit(any("failed" in row for row in measured))


if __name__ == "__main__":
    main()

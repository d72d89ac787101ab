#!/usr/bin/env python3
"""Ask a running server the questions of cases.json, with each adapter and with the plain base, all at once,
and print the answers side by side. Python's standard library only.

  python3 scripts/demo/show.py --url http://127.0.0.1:8080
"""
import argparse
import json
import os
import shutil
import sys
import textwrap
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
ADAPTERS = HERE.parent.parent / "adapters"
COLOUR = sys.stdout.isatty() and "NO_COLOR" not in os.environ
LOOPBACK = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy has no business here


def paint(text, code):
    return "\033[%sm%s\033[0m" % (code, text) if COLOUR else text


def fail(message):
    """Ends the program, from any thread: other threads may wait for answers that never come."""
    sys.stdout.flush()
    print("demo: " + message, file=sys.stderr, flush=True)
    os._exit(1)


def call(url, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    try:
        with LOOPBACK.open(request, timeout=600) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        fail("%s answered %d: %s" % (url, error.code, error.read().decode(errors="replace")))
    except OSError as error:
        fail("%s: %s" % (url, error))


def is_running(pid):
    try:
        os.kill(pid, 0)
        with open("/proc/%d/stat" % pid) as file:  # a zombie has ended too
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except OSError:
        return True


def wait_until_ready(url, pid, seconds=180):
    started = time.time()
    while time.time() - started < seconds:
        try:
            with LOOPBACK.open(url + "/ready", timeout=5) as answer:
                if answer.status == 200:
                    print(("\r\033[K" if COLOUR else "") + "ready after %.1f s" % (time.time() - started))
                    return
        except OSError:
            pass
        if pid and not is_running(pid):
            fail("the server ended before it was ready")
        if COLOUR:
            print("\rloading the base models ... %.0f s" % (time.time() - started), end="", flush=True)
        time.sleep(0.2)
    fail("the server was not ready within %d s" % seconds)


def ask(url, case, about):
    """The adapter's answer and the plain base's to the same prompt."""
    if about["task"] == "classify":
        result = call(url + "/v1/classify", {"adapter_id": case["id"], "input": case["input"]})["results"][0]
        scores = ["%s %.2f" % (one["label"], one["score"]) for one in result["labels"][:3]]
        return "(a base without a head has no answer)", "%s\n%s" % (" + ".join(result["predicted"]) or "none of them", ", ".join(scores))
    prompt = about["prompt_format"].replace("{text}", case["input"])
    with_adapter = call(url + "/v1/generate", {"adapter_id": case["id"], "input": case["input"]})
    base = call(url + "/v1/generate", {"base": about["base"], "input": prompt, "parameters": about.get("generation", {})})
    return base["outputs"][0]["text"].strip() or "(nothing: it ends at once)", with_adapter["outputs"][0]["text"].strip()


def wait_for(everything, wanted):
    """Until the wanted answers are there; says meanwhile how many of all have come."""
    while not all(one.done() for one in wanted):
        if COLOUR:
            print("\r%d of %d questions answered " % (sum(one.done() for one in everything), len(everything)), end="", flush=True)
        time.sleep(0.2)
    if COLOUR:
        print("\r\033[K", end="")


def wrap(text, width, most=5):
    lines = []
    for line in text.split("\n"):
        lines += textwrap.wrap(line, width)
    if len(lines) > most:
        lines = lines[:most - 1] + [lines[most - 1][:width - 4] + " ..."]
    return lines or [""]


def rows(cells, codes, width):
    columns = [wrap(cell, width) for cell in cells]
    for i in range(max(map(len, columns))):
        parts = [(column[i] if i < len(column) else "").ljust(width) for column in columns]
        yield "  " + "   ".join(paint(part, code) for part, code in zip(parts, codes)).rstrip()


def title(adapter, about):
    size = adapter["bytes"]
    size = "%.1f MB" % (size / 1e6) if size >= 1e6 else "%d kB" % round(size / 1e3)
    kind = {"lora": "LoRA", "dora": "DoRA", "ia3": "IA3"}.get(adapter["kind"], adapter["kind"].replace("_", " "))
    return "%s  (%s on %s, %s)  %s" % (paint(adapter["id"], "1;36"), kind, adapter["base"], size, about["description"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--wait", type=int, default=0, metavar="PID", help="wait until this server process is ready")
    options = parser.parse_args()
    url = options.url.rstrip("/")
    wait_until_ready(url, options.wait)

    cases = json.loads((HERE / "cases.json").read_text(encoding="utf8"))
    names = list(dict.fromkeys(case["id"] for case in cases))
    abouts = {name: json.loads((ADAPTERS / name / "repertoire.json").read_text(encoding="utf8")) for name in names}
    started = time.time()
    pool = ThreadPoolExecutor(len(cases))
    answers = [pool.submit(ask, url, case, abouts[case["id"]]) for case in cases]
    width = max(20, (min(shutil.get_terminal_size((110, 24)).columns, 150) - 8) // 3)
    for name in names:
        mine = [(case, answer) for case, answer in zip(cases, answers) if case["id"] == name]
        wait_for(answers, [answer for _, answer in mine])
        print("\n" + title(call(url + "/v1/adapters/" + name), abouts[name]))
        for line in rows(["input", "the plain base", "with the adapter"], ["2", "2", "2"], width):
            print(line)
        for case, answer in mine:
            print("  " + paint("-" * (3 * width + 6), "2"))
            for line in rows([case["input"], *answer.result()], ["0", "2", "32"], width):
                print(line, flush=True)
    took = time.time() - started
    print("\n%d questions, %d adapters of different kinds and the plain base, all asked at once: %.1f s" % (len(cases), len(names), took))


if __name__ == "__main__":
    main()

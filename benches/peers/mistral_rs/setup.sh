#!/usr/bin/env bash
# Makes a virtual environment with mistral.rs for measure.py, and a Hugging Face folder of the model in f32.
#   benches/peers/mistral_rs/setup.sh
# PEERS_WORK    where it goes (default: benches/peers/.work, which git ignores)
# PEFT_PYTHON   a Python with transformers, which converts the model (default: what benches/peers/peft/setup.sh makes)
# The package holds no server, so measure.py uses its Python interface.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=${PEERS_WORK:-$here/../.work}
mkdir -p "$work"
python3 -m venv "$work/mistral_rs"
"$work/mistral_rs/bin/python" -m pip install --disable-pip-version-check --no-deps -r "$here/requirements.txt"
[ -f "$work/smollm2-135m-f32/config.json" ] ||
    "${PEFT_PYTHON:-$work/peft/bin/python}" "$here/../convert.py" "$work/smollm2-135m-f32"

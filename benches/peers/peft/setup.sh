#!/usr/bin/env bash
# Makes a virtual environment with transformers and PEFT for measure.py.
#   benches/peers/peft/setup.sh
# PEERS_WORK    where it goes (default: benches/peers/.work, which git ignores)
# TORCH_INDEX   a package index that carries torch's CPU build, as PyTorch's installation page names it. Without it torch comes
#               from the default index, on Linux the CUDA build with several GB of libraries that a CPU never uses.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=${PEERS_WORK:-$here/../.work}/peft
python3 -m venv "$work"
pip="$work/bin/python -m pip install --disable-pip-version-check"
if [ -n "${TORCH_INDEX:-}" ]; then
    $pip --index-url "$TORCH_INDEX" "$(grep '^torch==' "$here/requirements.txt")"
fi
$pip -r "$here/requirements.txt"
"$work/bin/python" -c 'import torch, transformers, peft; print("torch", torch.__version__, "transformers", transformers.__version__, "peft", peft.__version__)'

#!/usr/bin/env bash
# Lays out nvcc 13.0 from Python packages: no GPU, no driver, no root. For building with the feature `cuda`.
#   eval "$(scripts/setup_nvcc.sh [FOLDER])"     FOLDER: where it goes (default: target/cuda); prints what to export
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
folder=$(realpath -sm "${1:-$root/target/cuda}")
home=$folder/nvidia/cu13

if [ ! -x "$home/bin/nvcc" ]; then
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --no-compile --upgrade \
        --only-binary=:all: --target "$folder" nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 \
        nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85 >&2
fi
"$home/bin/nvcc" --version | tail -1 >&2
echo "export CUDA_HOME=$home"

#!/usr/bin/env bash
# Builds llama.cpp's server out of the source package of llama-cpp-python, and turns the model into f32.
#   benches/peers/llama_cpp/setup.sh
# PEERS_WORK    where it goes (default: benches/peers/.work, which git ignores)
# JOBS          compilers at once (default: 2)
# Needs a C++ compiler, Python 3 with pip, and models/ (scripts/fetch_models.py). cmake and ninja come as Python packages.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
version=0.3.36
work=${PEERS_WORK:-$here/../.work}/llama_cpp
mkdir -p "$work"
cd "$work"

python3 -m venv tools
tools/bin/python -m pip install --quiet --disable-pip-version-check cmake==4.4.4 ninja==1.13.2
export PATH="$PWD/tools/bin:$PATH"

if [ ! -d "llama_cpp_python-$version" ]; then
    tools/bin/python -m pip download --quiet --disable-pip-version-check --no-deps --no-binary llama-cpp-python \
        --dest . "llama-cpp-python==$version"
    tar xzf "llama_cpp_python-$version.tar.gz"
fi

source=llama_cpp_python-$version/vendor/llama.cpp
cmake -S "$source" -B build -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF \
    -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF
cmake --build build --target llama-server llama-quantize -j "${JOBS:-2}"

# The same numbers as everybody else's: each weight of the Q4_1 file, as f32.
model=smollm2-135m-f32.gguf
[ -f "$model" ] || build/bin/llama-quantize --allow-requantize \
    "$root/models/smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf" "$model" F32 2
build/bin/llama-server --version

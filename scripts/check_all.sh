#!/usr/bin/env bash
# Everything slower than .ci/run: run it before calling something done. Each part says what it skips and why.
#   scripts/check_all.sh [part ...]     parts: fast release bench fuzz demo cuda docker
set -euo pipefail
cd "$(dirname "$0")/.."

parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(fast release bench fuzz demo cuda docker)
skipped=()
step() { printf '\n== %s\n' "$*"; }

fast() { .ci/run; }

release() {
    step "the tests, optimised"
    cargo test --workspace --locked --release
}

bench() {
    step "the benchmarks run (once each; these are no figures)"
    cargo test --workspace --locked --release --bench '*'
    # Random weights: it needs no models. The rows against PEFT need an environment of their own.
    python3 benches/table.py --dummy --quick --repetitions 1 --only distinct-vs-base,http-cost
}

fuzz() {
    step "a long run of the property tests"
    PROPTEST_CASES=20000 cargo test --workspace --locked --release --lib -- scheduler stop stream
}

demo() {
    step "the demonstration"
    scripts/demo.sh
}

cuda() {
    step "with kernels for GPUs, built and linted (no GPU is needed; on one, scripts/gpu_check.sh runs the tests that need one)"
    export_line=$(scripts/setup_nvcc.sh)
    (
        eval "$export_line"
        cargo clippy --workspace --all-targets --locked --features cuda -- -D warnings
        cargo test -p repertoire-kernels --locked --features cuda
    )
}

docker() {
    if ! command -v dockerd >/dev/null; then
        step "docker: skipped, there is no dockerd"
        skipped+=(docker)
        return
    fi
    step "the container, built and run"
    # Without a daemon, root can start one and make the images.
    if [ "$(id -u)" = 0 ] && ! command docker info >/dev/null 2>&1; then
        scripts/docker_check.sh --local
    else
        scripts/docker_check.sh
    fi
}

for part in "${parts[@]}"; do "$part"; done
step "done: ${parts[*]}${skipped[*]:+; skipped: ${skipped[*]}}"

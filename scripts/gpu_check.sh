#!/usr/bin/env bash
# Runs the tests that need a GPU, one line each. Builds nothing: it takes a test binary made elsewhere with
#   cargo test --release --workspace --features cuda --no-run     (names the binaries of kernels and of integration)
#   scripts/gpu_check.sh BINARY [tests|sanitize|bandwidth ...]     (default: tests; the last two take minutes and say figures)
set -euo pipefail
[ $# -gt 0 ] && [ -x "$1" ] || { echo "give the test binary: see the first lines of $0" >&2; exit 2; }
binary=$1
shift
[ $# -gt 0 ] || set -- tests

command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
failed=()
for part in "$@"; do
    case $part in
        tests) "$binary" --ignored --skip bandwidth --test-threads 4 cuda:: gpu:: || failed+=("$part") ;;
        sanitize)
            compute-sanitizer --tool memcheck --report-api-errors no --error-exitcode 9 "$binary" --ignored --skip bandwidth --test-threads 1 \
                cuda:: gpu:: ||
                failed+=("$part")
            ;;
        # Alone and in order: each measures.
        bandwidth) "$binary" --ignored --nocapture --test-threads 1 bandwidth || failed+=("$part") ;;
        *) echo "unknown part $part: tests, sanitize or bandwidth" >&2; exit 2 ;;
    esac
done
[ ${#failed[@]} = 0 ] || { echo "failed: ${failed[*]}" >&2; exit 1; }

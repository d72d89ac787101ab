# The front door: `just` lists what there is.

default:
    @just --list

# What every change must pass (format, clippy, tests, docs, licences)
check:
    .ci/run

# Everything slower as well: optimised tests, long property tests, demonstration, container
check-all:
    scripts/check_all.sh

# The tests
test:
    cargo test --workspace

# Build, fetch small real models, start the server, show tasks with and without adapters
demo:
    scripts/demo.sh

# Start a server with config.toml
serve *args:
    cargo run --release -- serve {{args}}

# Make the golden fixtures anew (Python with torch, transformers and peft: scripts/fixtures/README.md)
fixtures python="python3":
    {{python}} scripts/fixtures/make.py

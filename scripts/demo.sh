#!/usr/bin/env bash
# The demonstration, in one command: build, fetch two small base models, start the server, and show what
# each adapter of adapters/ answers beside the plain base.
#
#   scripts/demo.sh [--keep] [--port N]     --keep: leave the server running
#
# Needs Rust, Python 3 with pip and a C compiler; downloads about 180 MB once.
set -euo pipefail
cd "$(dirname "$0")/.."

keep= port=
while [ $# -gt 0 ]; do
    case $1 in
        --keep) keep=1 ;;
        --port) port=${2:?--port needs a number}; shift ;;
        *) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 2 ;;
    esac
    shift
done

if [ -t 1 ] && [ -z "${NO_COLOR-}" ]; then bold=$'\e[1m' red=$'\e[31m' plain=$'\e[0m'; else bold= red= plain=; fi
step() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }
fail() { printf '%sdemo: %s%s\n' "$red" "$*" "$plain" >&2; exit 1; }
need() { command -v "$1" >/dev/null || fail "$1 is missing. $2"; }

need cargo "Install Rust (https://rustup.rs), open a new shell and run this again."
need python3 "Install Python 3, e.g. apt-get install python3 python3-pip"
need cc "Install a C compiler, e.g. apt-get install gcc libc6-dev"
python3 -m pip --version >/dev/null 2>&1 || fail "Python's pip is missing. Install it, e.g. apt-get install python3-pip"
wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml | head -1)
have=$(cargo --version | cut -d' ' -f2)
[ "$(printf '%s\n' "$wanted" "$have" | sort -V | head -1)" = "$wanted" ] || fail "Rust $wanted or newer is needed, this is $have. Run: rustup update stable"

step "build (a few minutes the first time)"
cargo build --release --locked

step "fetch the base models"
python3 scripts/fetch_models.py

step "start the server"
[ -n "$port" ] || port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
url=http://127.0.0.1:$port
binary=${CARGO_TARGET_DIR:-target}/release/repertoire
log=$(mktemp "${TMPDIR:-/tmp}/repertoire-demo.XXXXXX")
nohup "$binary" serve --config scripts/demo/config.toml --listen "127.0.0.1:$port" >"$log" 2>&1 </dev/null &
server=$!
stop() { kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; }
trap stop EXIT
trap 'exit 130' INT TERM
python3 scripts/demo/show.py --url "$url" --wait "$server" || {
    printf '\nthe last lines of the server'"'"'s log (%s):\n' "$log" >&2
    tail -n 20 "$log" >&2
    fail "the demonstration did not finish; the lines above say why"
}

step "go on"
if [ -n "$keep" ]; then
    trap - EXIT
    printf 'The server runs on %s; its log is %s. Stop it with: kill %s\n' "$url" "$log" "$server"
else
    rm -f "$log"
    url=http://127.0.0.1:8080
    printf 'The server was stopped. Start it again, and ask from another shell:\n  %s serve --config scripts/demo/config.toml\n' "$binary"
fi
cat <<END
  curl $url/v1/adapters
  curl -N $url/v1/generate -H 'content-type: application/json' \\
    -d '{"adapter_id": "detox", "input": "what a stupid idea", "stream": true}'
  curl $url/v1/classify -H 'content-type: application/json' \\
    -d '{"adapter_id": "toxicity", "input": ["you are great", "you are an idiot"]}'
  $binary push my-adapter PATH_TO_A_PEFT_FOLDER --url $url
END

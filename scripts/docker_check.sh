#!/usr/bin/env bash
# Build the container and run it for real: health, user, an answer through HTTP, an orderly end.
#
#   scripts/docker_check.sh            where docker runs and images can be pulled
#   scripts/docker_check.sh --local    as root, where none can be: starts its own dockerd and makes the two images
#                                      from Debian's archive and the local Rust toolchain
#                                      (apt-get install docker.io debootstrap)
#
# Fetch the models first (scripts/fetch_models.py). DOCKER_WORK (default /var/tmp/repertoire-docker) holds what --local
# makes, about 3 GB; it is used again by the next run.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { printf 'docker_check: %s\n' "$*" >&2; exit 1; }
step() { printf '\n== %s\n' "$*"; }
need() { command -v "$1" >/dev/null || fail "$1 is missing: apt-get install $2"; }
work=${DOCKER_WORK:-/var/tmp/repertoire-docker}
build_options=() name=repertoire-check-$$ daemon=
[ -e models/smollm2-135m ] && [ -e models/minilm ] || fail "no models yet: run python3 scripts/fetch_models.py"
need docker docker.io

cleanup() {
    docker rm -f "$name" >/dev/null 2>&1 || true
    docker volume rm "$name-adapters" >/dev/null 2>&1 || true
    [ -z "$daemon" ] || { kill "$daemon"; wait "$daemon" 2>/dev/null || true; }
}
trap cleanup EXIT

start_daemon() {
    need dockerd docker.io
    export DOCKER_HOST=unix://$work/docker.sock DOCKER_BUILDKIT=0
    if docker info >/dev/null 2>&1; then return; fi
    step "start dockerd in $work"
    mkdir -p "$work"
    dockerd --data-root "$work/data" --exec-root "$work/exec" --pidfile "$work/dockerd.pid" -H "$DOCKER_HOST" \
        --iptables=false --bridge=none >"$work/dockerd.log" 2>&1 &
    daemon=$!
    for _ in $(seq 60); do
        if docker info >/dev/null 2>&1; then return; fi
        sleep 1
    done
    tail -n 5 "$work/dockerd.log" >&2
    fail "dockerd did not start; its log is $work/dockerd.log"
}

# make_root FOLDER PACKAGES: a minimal Debian 12 with these packages.
make_root() {
    [ -e "$1.done" ] && return
    rm -rf "$1"
    debootstrap --variant=minbase ${2:+--include=$2} bookworm "$1" >"$1.log" 2>&1 || fail "debootstrap failed; its log is $1.log"
    touch "$1.done"
}

make_images() {
    need debootstrap debootstrap
    if ! docker image inspect repertoire-runtime >/dev/null 2>&1; then
        step "make the runtime image"
        make_root "$work/runtime" ""
        tar -C "$work/runtime" -c . | docker import - repertoire-runtime >/dev/null
    fi
    if ! docker image inspect repertoire-builder >/dev/null 2>&1; then
        step "make the builder image (Debian, a C compiler, this machine's Rust and certificates)"
        make_root "$work/builder" gcc,libc6-dev,make,pkg-config,ca-certificates
        mkdir -p "$work/builder/opt/rust"
        tar -C "$(rustc --print sysroot)" -c --exclude=./share . | tar -C "$work/builder/opt/rust" -x
        cp "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}" "$work/builder/etc/ssl/certs/ca-certificates.crt"
        cargo_home=${CARGO_HOME:-$HOME/.cargo}
        mkdir -p "$work/builder/root/.cargo"
        for file in config.toml config; do  # where this machine finds its registry
            if [ -e "$cargo_home/$file" ]; then cp "$cargo_home/$file" "$work/builder/root/.cargo/"; fi
        done
        tar -C "$work/builder" -c . | docker import --change 'ENV PATH=/opt/rust/bin:/usr/local/bin:/usr/bin:/bin' \
            --change 'ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt' --change 'ENV CARGO_HOME=/root/.cargo' \
            - repertoire-builder >/dev/null
    fi
    build_options=(--build-arg BUILDER=repertoire-builder --build-arg RUNTIME=repertoire-runtime --network=host)
    for variable in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
        if [ -n "${!variable-}" ]; then build_options+=(--build-arg "$variable"); fi
    done
}

if [ "${1-}" = --local ]; then
    start_daemon
    make_images
elif [ $# -gt 0 ]; then
    sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 2
fi

step "build"
docker build ${build_options[@]+"${build_options[@]}"} -t repertoire:check .
docker image inspect -f 'image size: {{.Size}} bytes' repertoire:check

step "run"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
run_options=(-p "127.0.0.1:$port:8080")
if [ "${1-}" = --local ]; then run_options=(--network=host -e "REPERTOIRE_SERVER__LISTEN=127.0.0.1:$port"); fi
docker run -d --name "$name" "${run_options[@]}" -e REPERTOIRE_AUTH__ANONYMOUS=true -v "$PWD/models:/srv/repertoire/models:ro" \
    -v "$PWD/scripts/demo/config.toml:/etc/repertoire/config.toml:ro" -v "$name-adapters:/srv/repertoire/adapters" repertoire:check >/dev/null
url=http://127.0.0.1:$port inside=http://127.0.0.1:8080
if [ "${1-}" = --local ]; then inside=$url; fi
for _ in $(seq 180); do
    state=$(docker inspect -f '{{.State.Status}} {{.State.Health.Status}}' "$name")
    case $state in "running starting") sleep 1 ;; *) break ;; esac
done
if [ "$state" != "running healthy" ]; then docker logs --tail 20 "$name" >&2; fail "the container is: $state"; fi
echo "health: $state"

uid=$(docker exec "$name" id -u)
[ "$uid" != 0 ] || fail "the server runs as root"
echo "user: $uid"

step "publish an adapter and ask it"
docker cp adapters/detox "$name:/tmp/detox" >/dev/null
docker exec "$name" repertoire push detox /tmp/detox --url "$inside"
answer=$(python3 - "$url" <<'PYTHON'
import json, sys, urllib.request
body = json.dumps({"adapter_id": "detox", "input": "what a stupid idea"}).encode()
request = urllib.request.Request(sys.argv[1] + "/v1/generate", body, {"content-type": "application/json"})
print(urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=120).read().decode())
PYTHON
)
echo "$answer"
case $answer in *'"text"'*) ;; *) fail "that is no answer" ;; esac

step "stop"
docker stop --time 30 "$name" >/dev/null
code=$(docker inspect -f '{{.State.ExitCode}}' "$name")
[ "$code" = 0 ] || { docker logs --tail 20 "$name" >&2; fail "the server ended with $code after SIGTERM"; }
echo "ended in order after SIGTERM"
printf '\nall is well\n'

# Repertoire on the CPU.
#
#   docker build -t repertoire .
#   docker run -p 8080:8080 -v "$PWD/models:/srv/repertoire/models:ro" -v repertoire-adapters:/srv/repertoire/adapters \
#       -e REPERTOIRE_AUTH__ANONYMOUS=true repertoire
#
# Without REPERTOIRE_AUTH__ANONYMOUS=true (everybody may publish) the server wants keys: mount a file of them and
# name it in REPERTOIRE_AUTH__KEYS_FILE. Another configuration: mount it over /etc/repertoire/config.toml; its
# server.listen alone does not count here, where every address at port 8080 is listened on (-e REPERTOIRE_SERVER__LISTEN=...).
# The two images can be replaced, e.g. by a mirror: --build-arg BUILDER=... --build-arg RUNTIME=...
ARG BUILDER=rust:1-bookworm
ARG RUNTIME=debian:bookworm-slim

FROM ${BUILDER} AS builder
WORKDIR /build
# The dependencies in a layer of their own: they are compiled again only when a manifest changes.
COPY Cargo.toml Cargo.lock ./
COPY kernels/Cargo.toml kernels/
RUN mkdir -p src kernels/src tests/integration \
    && echo 'fn main() {}' > src/main.rs \
    && touch src/lib.rs kernels/src/lib.rs tests/integration/main.rs \
    && cargo build --release --locked --bin repertoire \
    && rm -r src kernels/src tests
COPY . .
# New times, or cargo takes the stand-ins above for the newer files.
RUN find src kernels/src -name '*.rs' -exec touch {} + \
    && cargo build --release --locked --bin repertoire \
    && strip target/release/repertoire

FROM ${RUNTIME}
RUN useradd --system --uid 10001 --home-dir /srv/repertoire --create-home --shell /usr/sbin/nologin repertoire \
    && install -d -o repertoire -g repertoire /srv/repertoire/models /srv/repertoire/adapters /srv/repertoire/data
COPY --from=builder /build/target/release/repertoire /usr/local/bin/
COPY config.toml /etc/repertoire/config.toml
# In a container the outside is reached through every address; who may come in is decided by keys.
ENV REPERTOIRE_SERVER__LISTEN=0.0.0.0:8080
USER repertoire
WORKDIR /srv/repertoire
VOLUME ["/srv/repertoire/adapters", "/srv/repertoire/data"]
EXPOSE 8080
# The slim image has no curl: bash speaks enough HTTP.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 CMD ["bash", "-c", \
    "exec 3<>/dev/tcp/127.0.0.1/${REPERTOIRE_SERVER__LISTEN##*:} && printf 'GET /ready HTTP/1.0\\r\\n\\r\\n' >&3 && read -r _ code _ <&3 && [ \"$code\" = 200 ]"]
ENTRYPOINT ["repertoire"]
CMD ["serve", "--config", "/etc/repertoire/config.toml"]

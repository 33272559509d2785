# knockd and knock-cli in a small image. It guards the host where it runs in the host's network namespace:
#
#   docker build --tag knockd .
#   docker run --detach --name knockd --network host --cap-drop ALL --cap-add NET_ADMIN --cap-add NET_RAW \
#       --read-only --tmpfs /run/knockd:mode=0750 --volume knockd-state:/var/lib/knockd \
#       --volume ./config.json:/config.json:ro knockd
#
# compose.yaml says the same. `docker stop` opens what was guarded, as nftables.on_stop says; with "keep" it stays closed.
# Of the capabilities that knock-rs asks for, NET_BIND_SERVICE is not needed: knockd listens on no port. Rules with commands run them in here, where there is /bin/sh and little else.

FROM rust:1-slim-bookworm AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libmnl-dev libnftnl-dev pkg-config \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/source/target \
    cargo build --locked --release -p knockd -p knock-cli \
    && cp target/release/knockd target/release/knockctl target/release/knock-cli /usr/local/bin/

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libmnl0 libnftnl11 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /usr/local/bin/knockd /usr/local/bin/knockctl /usr/local/bin/knock-cli /usr/local/bin/
# The place that the image of knock-rs reads it from.
WORKDIR /
HEALTHCHECK --interval=1m --timeout=5s --start-period=5s CMD ["knockctl", "status"]
# The file has to be root's, and writable by nobody else: chown root:root config.json; chmod 600 config.json
ENTRYPOINT ["knockd"]
CMD ["--config", "/config.json"]

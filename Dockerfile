# Builds umbrad and puts it into an image without a shell. Mount the configuration at /etc/umbra/umbra.toml and a volume for
# the store at /var/lib/umbra. Relative paths in the configuration begin at /etc/umbra, so the path of
# the store is path = "/var/lib/umbra/umbra.redb", or omitted:
#
#   docker build -t umbra .
#   docker run --rm --stop-timeout 60 -p 1883:1883 -v umbra:/var/lib/umbra -v ./umbra.toml:/etc/umbra/umbra.toml:ro umbra
#
# A shutdown waits up to 10 s for clients, and flushes the documents that only the journal has. Docker kills after 10 s in
# all unless --stop-timeout is longer.
#
# 127.0.0.1 is the container itself, so listeners must bind 0.0.0.0. For an anonymous listener this requires
# allow_anonymous_anywhere = true.

FROM rust:1.95-bookworm AS build
WORKDIR /build
COPY . .
RUN cargo build --release --locked --package umbrad --bin umbrad && mkdir -p /empty/var/lib/umbra

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /build/target/release/umbrad /usr/local/bin/umbrad
# A new volume inherits the owner of this folder.
COPY --from=build --chown=nonroot:nonroot /empty/var/lib/umbra /var/lib/umbra
WORKDIR /var/lib/umbra
VOLUME /var/lib/umbra
EXPOSE 1883 8883 8080 8443
# SIGTERM shuts down in order, as with `docker stop`; a second signal ends the process at once.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/umbrad"]
CMD ["serve", "--config", "/etc/umbra/umbra.toml"]

# Builds umbrad and puts it into an image without a shell. Configuration in /etc/umbra/umbra.toml, the store in
# /var/lib/umbra, both of them to be mounted; relative paths in the configuration begin at /etc/umbra, so the store's is to
# be path = "/var/lib/umbra/umbra.redb", or left out:
#
#   docker build -t umbra .
#   docker run --rm -p 1883:1883 -v umbra:/var/lib/umbra -v ./umbra.toml:/etc/umbra/umbra.toml:ro umbra
#
# In a container 127.0.0.1 is the container's own: listeners have to bind 0.0.0.0, which an anonymous one may only
# where the configuration says allow_anonymous_anywhere = true.

FROM rust:1.95-bookworm AS build
WORKDIR /build
COPY . .
RUN cargo build --release --locked --package umbrad --bin umbrad && mkdir -p /empty/var/lib/umbra

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /build/target/release/umbrad /usr/local/bin/umbrad
# A new volume takes over the owner of what is there.
COPY --from=build --chown=nonroot:nonroot /empty/var/lib/umbra /var/lib/umbra
WORKDIR /var/lib/umbra
VOLUME /var/lib/umbra
EXPOSE 1883 8883 8080 8443
# Ends in order, as with `docker stop`; a second signal ends at once.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/umbrad"]
CMD ["serve", "--config", "/etc/umbra/umbra.toml"]

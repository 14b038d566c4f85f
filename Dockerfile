# A static program on an empty base: nothing but it, the certificate authorities, a user and two folders.
#
#   docker build --build-arg REVISION="$(git rev-parse --short=12 HEAD)" -t consentry .
#   docker run --read-only -p 127.0.0.1:10143:10143 -v consentry:/var/lib/consentry -v ./etc:/etc/consentry:ro consentry
#   docker exec CONTAINER consentry probe NAME

# The digest is that of the list of architectures, so that all of them build from it. That of a newer image: docker buildx imagetools inspect rust:1.95-bookworm
FROM rust:1.95-bookworm@sha256:6258907abe69656e41cd992e0b705cdcfabcbbe3db374f92ed2d47121282d4a1 AS tools
RUN apt-get update \
 && apt-get install -y --no-install-recommends musl-tools ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && rustup target add "$(uname -m)-unknown-linux-musl" \
 && cargo install --locked cargo-chef@0.1.73
WORKDIR /src

# What the dependencies depend on, so that a change of our own code does not build them again.
FROM tools AS plan
COPY . .
RUN cargo chef prepare --recipe-path /recipe.json

FROM tools AS build
COPY --from=plan /recipe.json /recipe.json
RUN cargo chef cook --release --locked --package consentry --target "$(uname -m)-unknown-linux-musl" --recipe-path /recipe.json
COPY . .
ARG REVISION=unknown
RUN CONSENTRY_REVISION="$REVISION" cargo build --release --locked --package consentry --target "$(uname -m)-unknown-linux-musl" \
 && install -D "target/$(uname -m)-unknown-linux-musl/release/consentry" /image/usr/bin/consentry \
 && install -D -m 644 /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ca-certificates.crt \
 && install -D -m 644 config/packaged.yml /image/etc/consentry/consentry.yml \
 && echo 'consentry:x:65532:65532:Consentry:/var/lib/consentry:/sbin/nologin' > /image/etc/passwd \
 && echo 'consentry:x:65532:' > /image/etc/group \
 && install -d -m 750 -o 65532 -g 65532 /image/var/lib/consentry \
 && install -d -m 1777 /image/tmp

FROM scratch
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Consentry" \
      org.opencontainers.image.description="Watches integrations with Microsoft Entra ID and mails the admin who can mend them" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/consentry/consentry" \
      org.opencontainers.image.documentation="https://github.com/consentry/consentry/blob/main/docs/packaging.md" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
COPY --from=build /image/ /
ENV PATH=/usr/bin
USER 65532:65532
WORKDIR /var/lib/consentry
VOLUME /var/lib/consentry
EXPOSE 10143
HEALTHCHECK --interval=30s --timeout=6s --start-period=30s --retries=3 CMD ["consentry", "healthcheck"]
ENTRYPOINT ["/usr/bin/consentry"]
CMD ["run", "--config.file=/etc/consentry/consentry.yml"]

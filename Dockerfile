# syntax=docker/dockerfile:1
# The worker for machines without a GPU: small, runs as nobody in particular, on a read-only root.
#   docker build -t tensorfleet-worker .
#   docker run --read-only -v worker-state:/var/lib/tensorfleet -e ORCHESTRATOR_ADDRESS=orchestrator:50051 tensorfleet-worker
ARG RUST_IMAGE=docker.io/library/rust:1.95-bookworm
ARG BASE_IMAGE=docker.io/library/debian:bookworm-slim

# What decides which dependencies are built: manifests, with empty sources beside them. As long as these are the same,
# the layer of built dependencies is taken from the cache, whatever else changed.
FROM ${RUST_IMAGE} AS manifests
WORKDIR /all
COPY . .
RUN mkdir /manifests \
 && find . \( -name Cargo.toml -o -name Cargo.lock \) -exec cp --parents {} /manifests \; \
 && cd /manifests \
 && for manifest in $(find . -name Cargo.toml); do \
      mkdir -p "${manifest%/*}/src" && : >"${manifest%/*}/src/lib.rs"; \
    done \
 && for target in $(cd /all && find . -path '*/benches/*.rs' -o -path '*/examples/*.rs' -o -path './tests/*.rs'); do \
      mkdir -p "${target%/*}" && echo 'fn main() {}' >"$target"; \
    done \
 && echo 'fn main() {}' | tee src/main.rs >build.rs

FROM ${RUST_IMAGE} AS build
# dist is what is published; a quicker profile is enough to try the image.
ARG PROFILE=dist
ARG FEATURES=
ENV CARGO_INCREMENTAL=0 CARGO_TERM_COLOR=never CARGO_TARGET_DIR=/target
# Writes the list of all crates into the program itself, where syft, trivy, grype and cargo-audit read it.
RUN cargo install --locked --version 0.7.7 --root /tools cargo-auditable
ENV PATH=/tools/bin:$PATH
WORKDIR /src
COPY --from=manifests /manifests .
RUN cargo auditable build --locked --profile "$PROFILE" --no-default-features --features "$FEATURES" --bin tensorfleet-worker
COPY . .
# The empty sources above may be younger than the real ones.
RUN find build.rs proto src kernels -type f -exec touch {} + \
 && cargo auditable build --locked --profile "$PROFILE" --no-default-features --features "$FEATURES" --bin tensorfleet-worker \
 && mkdir -p /root-of-image/usr/local/bin /root-of-image/etc/ssl/certs /root-of-image/var/lib/tensorfleet /root-of-image/data \
 && cp /target/*/tensorfleet-worker /root-of-image/usr/local/bin/ \
 && cp /etc/ssl/certs/ca-certificates.crt /root-of-image/etc/ssl/certs/ \
 && mkdir -p /root-of-image/usr/share/doc/tensorfleet-worker \
 && cp LICENSE data/README.md /root-of-image/usr/share/doc/tensorfleet-worker/ \
 && chown -R 65532:65532 /root-of-image/var/lib/tensorfleet

FROM ${BASE_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="tensorfleet-worker" \
      org.opencontainers.image.description="The compute worker of TensorFleet, for machines without a GPU" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="docker.io/library/debian:bookworm-slim"
COPY --from=build /root-of-image/ /
ENV STATE_DIR=/var/lib/tensorfleet/state \
    DATA_ROOT=/data
USER 65532:65532
WORKDIR /var/lib/tensorfleet
VOLUME ["/var/lib/tensorfleet"]
EXPOSE 50052 2112
HEALTHCHECK --interval=15s --timeout=5s --start-period=10s --retries=3 CMD ["tensorfleet-worker", "health"]
ENTRYPOINT ["tensorfleet-worker"]
CMD ["run"]

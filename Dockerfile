# One static binary in an otherwise empty image, for BuildKit and for the classic
# builder. The latter sets neither BUILDPLATFORM nor TARGETARCH, so both have a
# default here: HOST, and the CPU of the build stage.

# The version is rust-toolchain.toml's.
ARG BUILDER=docker.io/library/rust:1.95.0-slim-bookworm
ARG HOST=linux/amd64

FROM --platform=${BUILDPLATFORM:-$HOST} $BUILDER AS build
WORKDIR /src
# No default here: it would override BuildKit's own value.
ARG TARGETARCH
COPY scripts/setup scripts/engine-stage scripts/
RUN scripts/engine-stage tools
COPY . .
ARG REVISION=unknown
# It also sets the C compiler's __TIME__, which mimalloc embeds.
ARG SOURCE_DATE_EPOCH=0
# tls, for the image with TLS.
ARG FEATURES=
RUN scripts/engine-stage build
RUN scripts/engine-stage root /root-of-image

FROM scratch
ARG REVISION=unknown
ARG VERSION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="mygrpcadapter" \
      org.opencontainers.image.description="Telemetry and authorization adapter for Envoy, Istio and Mixer: writes access logs and reports to files, answers authorization checks" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.source="$SOURCE"
# One layer: the binary, links to it in /bin, the licences, /volume.
COPY --from=build /root-of-image/ /
ENV PATH=/bin
USER 65532:65532
EXPOSE 8000 9145
ENTRYPOINT ["/mygrpcadapter"]
CMD ["8000"]

# One image; the command chooses the process: `api`, `worker poll`, `worker deliver`, `worker maintain`, and every other.
# Builder and runtime share the Debian release, the interpreter and its path; the builder's is the larger one, which has
# binutils. A release resolves both bases to digests:
#   docker build --build-arg BUILD_BASE=python:TAG@sha256:... --build-arg RUNTIME_BASE=python:TAG@sha256:... .
ARG BUILD_BASE=python:3.11.14-trixie
ARG RUNTIME_BASE=python:3.11.14-slim-trixie

FROM ${BUILD_BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
# Dependencies first: they change less often than the relay. Those of tracing are among them, as no container can be
# given them later. The environment has no pip of its own; wheels come with symbols that only a debugger reads.
COPY requirements-image.txt requirements-build.txt ./
RUN python -m venv --without-pip /opt/relay && \
    python -m pip --python /opt/relay/bin/python install --require-hashes -r requirements-image.txt && \
    find /opt/relay -name "*.so" -type f -exec strip --strip-unneeded {} + && \
    python -m venv --without-pip /opt/builder && \
    python -m pip --python /opt/builder/bin/python install --require-hashes -r requirements-build.txt
COPY pyproject.toml README.md LICENSE ./
COPY relay ./relay
COPY workers ./workers
RUN /opt/builder/bin/python -m hatchling build -t wheel -d /build/dist && \
    python -m pip --python /opt/relay/bin/python install --no-deps --no-index --find-links /build/dist post-checkout-relay

FROM ${RUNTIME_BASE}
# PYTHONSAFEPATH: nothing is ever imported from the working directory.
ENV PATH=/opt/relay/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTHONSAFEPATH=1 RELAY_HOST=0.0.0.0
COPY --from=build /opt/relay /opt/relay
USER 65532:65532
WORKDIR /
STOPSIGNAL SIGTERM
EXPOSE 8080 9102 9103
# Kubernetes has probes of its own and ignores this one.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 CMD ["relay", "healthcheck"]
ARG VERSION=unknown
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="post-checkout-relay" \
      org.opencontainers.image.description="Detects what changes on Post-Checkout orders and delivers it as signed, ordered webhooks" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
ENTRYPOINT ["relay"]
CMD ["api"]

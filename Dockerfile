# One image; the command chooses the process: `api`, `worker poll`, `worker deliver`, `worker maintain`, `up`.
ARG PYTHON=3.11-slim-bookworm

FROM python:${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
RUN python -m venv /opt/relay
COPY requirements.txt ./
RUN /opt/relay/bin/pip install --require-hashes -r requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY relay ./relay
COPY workers ./workers
RUN /opt/relay/bin/pip install --no-deps .

FROM python:${PYTHON}
ENV PATH=/opt/relay/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 RELAY_HOST=0.0.0.0
COPY --from=build /opt/relay /opt/relay
USER 65532:65532
WORKDIR /tmp
STOPSIGNAL SIGTERM
EXPOSE 8080 9102
ENTRYPOINT ["relay"]
CMD ["api"]

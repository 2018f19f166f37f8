# The worker: docker build --tag spanferry-worker .
# Any command of spanferry: docker run spanferry-worker doctor --bootstrap-servers ...
FROM python:3.13-slim AS build
RUN pip install --no-cache-dir uv
WORKDIR /src
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY schemas schemas
COPY producer producer
COPY worker worker
COPY examples examples
# What is installed, and what builds the wheel, has the versions and hashes of the lock.
RUN uv build --wheel --build-constraints requirements.lock --out-dir /dist
RUN uv venv /opt/spanferry
RUN uv pip install --python /opt/spanferry --no-cache --compile-bytecode \
    --constraints requirements.lock "$(ls /dist/*.whl)[worker,mysql]"

FROM python:3.13-slim
RUN useradd --uid 10001 --create-home spanferry
COPY --from=build /opt/spanferry /opt/spanferry
ENV PATH=/opt/spanferry/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    MLFLOW_DISABLE_TELEMETRY=true \
    SPANFERRY_WORKER_HEALTH_HOST=0.0.0.0 \
    SPANFERRY_WORKER_LOG_FORMAT=json
USER 10001
WORKDIR /home/spanferry
EXPOSE 8790
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8790/healthz', timeout=4)"]
ENTRYPOINT ["spanferry"]
CMD ["worker"]

# Images of t2tdeploy: one to train, two to serve.
#
#   docker build --target serve -t t2tdeploy:serve .
#   docker run --rm -p 50051:50051 -v "$PWD/bundle:/bundle:ro" t2tdeploy:serve
#
# Arguments: PYTHON_VERSION, CUDA_IMAGE, and PIP_EXTRA_INDEX_URL for another build of torch (see constraints.txt).

ARG PYTHON_VERSION=3.11
ARG CUDA_IMAGE=nvidia/cuda:13.0.1-cudnn-runtime-ubuntu24.04


FROM python:${PYTHON_VERSION}-slim AS source
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY t2tdeploy t2tdeploy
RUN python -m venv /venv


FROM source AS train-environment
ARG PIP_EXTRA_INDEX_URL=
RUN /venv/bin/pip install --no-cache-dir -c constraints.txt '.[train,serve]'


FROM source AS serve-environment
RUN /venv/bin/pip install --no-cache-dir -c constraints.txt '.[serve]'


# Data, runs and bundles live in the folder mounted at /work.
FROM python:${PYTHON_VERSION}-slim AS train
COPY --from=train-environment /venv /venv
ENV PATH=/venv/bin:$PATH
WORKDIR /work
ENTRYPOINT ["t2tdeploy"]
CMD ["--help"]


# No torch in here. The bundle is mounted at /bundle.
FROM python:${PYTHON_VERSION}-slim AS serve
COPY --from=serve-environment /venv /venv
ENV PATH=/venv/bin:$PATH
RUN useradd --system --uid 10001 --no-create-home t2tdeploy
USER 10001
EXPOSE 50051
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-m", "t2tdeploy.serving.health", "localhost:50051"]
ENTRYPOINT ["t2tdeploy"]
CMD ["serve", "--bundle", "/bundle", "--host", "0.0.0.0"]


# The same with the CUDA build of onnxruntime, on Ubuntu's Python. Bundles of format 1 hold a CPU graph, which runs in
# here too, on the CPU.
FROM ${CUDA_IMAGE} AS serve-gpu
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
COPY --from=source /source /source
RUN python3 -m venv /venv \
    && /venv/bin/pip install --no-cache-dir -c /source/constraints.txt '/source[serve-gpu]' \
    && rm -rf /source
ENV PATH=/venv/bin:$PATH
RUN useradd --system --uid 10001 --no-create-home t2tdeploy
USER 10001
EXPOSE 50051
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-m", "t2tdeploy.serving.health", "localhost:50051"]
ENTRYPOINT ["t2tdeploy"]
CMD ["serve", "--bundle", "/bundle", "--host", "0.0.0.0"]

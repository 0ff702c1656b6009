# CPU:  docker build -t perception-r1 . && docker run -p 127.0.0.1:8888:8888 perception-r1
# GPU:  docker build --build-arg TORCH_INDEX=https://pypi.org/simple --build-arg EXTRAS=dev,gpu -t perception-r1:gpu .
# Never built by us: no machine of ours has a Docker engine.
FROM quay.io/jupyter/minimal-notebook:2024-12-23

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=dev

WORKDIR /home/jovyan/perception-r1
COPY --chown=${NB_UID}:${NB_GID} pyproject.toml constraints.txt Makefile LICENSE CITATION.cff README.md ./
COPY --chown=${NB_UID}:${NB_GID} perception_r1 perception_r1
COPY --chown=${NB_UID}:${NB_GID} notebooks notebooks
COPY --chown=${NB_UID}:${NB_GID} tests tests
COPY --chown=${NB_UID}:${NB_GID} data data
RUN pip install --no-cache-dir --extra-index-url "${TORCH_INDEX}" -c constraints.txt -e ".[${EXTRAS}]"

CMD ["start-notebook.py", "--ServerApp.root_dir=/home/jovyan/perception-r1", "--LabApp.default_url=/lab/tree/notebooks/01_motivation_mcnemar.ipynb"]

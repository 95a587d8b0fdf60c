# GPU machines: docker build -t hpa_tf . && docker run --gpus all -v DATA:/data -v RUNS:/runs hpa_tf \
#     train.py --strategy mirrored --data /data --out /runs/NAME
# DATA and RUNS are volumes; where they are folders of yours: --user "$(id -u)" -e HOME=/tmp
# TensorFlow brings its own CUDA libraries ([cuda] extra); the host needs NVIDIA's driver and container toolkit.
FROM python:3.12-slim

WORKDIR /hpa_tf
# the packages first: a change in the code does not install them again
COPY requirements.txt pyproject.toml ./
RUN pip install --no-cache-dir -r requirements.txt "tensorflow[and-cuda]==2.21.0"
COPY . .
RUN pip install --no-cache-dir --no-deps . && useradd --create-home hpa \
    && mkdir /data /runs && chown hpa /data /runs
USER hpa
ENTRYPOINT ["python"]
CMD ["train.py", "--help"]

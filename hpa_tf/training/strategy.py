"""Where a training runs: strategy, precision, devices; the same loop runs under all of them.

one          one GPU if there is one, else the CPU
mirrored     all GPUs of this machine (all logical CPU devices where there is no GPU)
multiworker  several machines, each with this program and its own TF_CONFIG
tpu          one TPU slice; TPU_NAME names it, none = the machine's own
"""

import os
import sys
import warnings
from typing import Literal

import tensorflow as tf

from hpa_tf.errors import HpaWarning, InputError

StrategyName = Literal["one", "mirrored", "multiworker", "tpu"]
Precision = Literal["auto", "float32", "mixed_float16", "mixed_bfloat16"]


def make_strategy(name: StrategyName) -> tf.distribute.Strategy:
    """Return the strategy; `multiworker` waits here for its peers. Call it before any other TensorFlow op.

    Raises:
        InputError: What the strategy needs is not there.
    """
    gpus = tf.config.list_logical_devices("GPU") if name in ("one", "mirrored") else []
    if name == "one":
        return tf.distribute.OneDeviceStrategy("/gpu:0" if gpus else "/cpu:0")
    if name == "mirrored":
        if not gpus:
            cpus = len(tf.config.list_logical_devices("CPU"))
            message = f"--strategy mirrored found no GPU: it trains on {cpus} logical CPU device(s)"
            warnings.warn(message, HpaWarning, stacklevel=2)
        return tf.distribute.MirroredStrategy(None if gpus else tf.config.list_logical_devices("CPU"))
    if name == "multiworker":
        if not os.environ.get("TF_CONFIG"):
            expected = (
                'TF_CONFIG, e.g. {"cluster": {"worker": ["a:2222", "b:2222"]}, "task": {"type": "worker", "index": 0}}'
            )
            raise InputError(
                "--strategy multiworker", "no TF_CONFIG", expected, "set it on each machine, index by index"
            )
        return tf.distribute.MultiWorkerMirroredStrategy()
    return _tpu_strategy()


def _tpu_strategy() -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=os.environ.get("TPU_NAME", "local"))
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, OSError, tf.errors.OpError) as error:
        found = f"no TPU ({str(error).splitlines()[0][:200]})"
        fix = "run on a TPU machine with pip install '.[tpu]', or set TPU_NAME"
        raise InputError("--strategy tpu", found, "a TPU", fix) from error
    return tf.distribute.TPUStrategy(resolver)


def is_tpu(strategy: tf.distribute.Strategy) -> bool:
    """Tell whether a strategy runs on TPU."""
    return isinstance(strategy, tf.distribute.TPUStrategy)


def worker(strategy: tf.distribute.Strategy) -> tuple[int, int]:
    """Return (index of this process, number of processes); (0, 1) but for multiworker."""
    resolver = strategy.cluster_resolver
    if resolver is None or not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 0, 1
    return resolver.task_id, len(resolver.cluster_spec().as_dict()["worker"])


def resolve_precision(precision: Precision, strategy: tf.distribute.Strategy) -> str:
    """Return the Keras dtype policy: auto is float16 on GPU, bfloat16 on TPU, float32 on CPU."""
    if precision != "auto":
        return precision
    if is_tpu(strategy):
        return "mixed_bfloat16"
    return "mixed_float16" if "GPU" in strategy.extended.worker_devices[0] else "float32"


def describe(strategy: tf.distribute.Strategy, policy: str) -> str:
    """Return the start-up line that names the devices."""
    index, count = worker(strategy)
    here = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    names = ", ".join(sorted({detail.get("device_name", "GPU") for detail in here})) or f"CPU, {os.cpu_count()} cores"
    devices = ", ".join(device.split("task:")[-1] for device in strategy.extended.worker_devices)
    process = f" | process {index + 1} of {count}" if count > 1 else ""
    replicas = strategy.num_replicas_in_sync
    return (
        f"{type(strategy).__name__} | {replicas} replica(s) on {devices} ({names}){process} | {policy} | "
        f"TensorFlow {tf.__version__}, Python {sys.version.split()[0]}"
    )

"""Where a training runs: strategy, precision, devices; the same loop runs under all of them.

one          one GPU if there is one, else the CPU
mirrored     all GPUs of this machine (all logical CPU devices where there is no GPU)
multiworker  several machines, each with this program and its own TF_CONFIG
tpu          one TPU slice; TPU_NAME names it, none = the machine's own
"""

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Literal

import tensorflow as tf

from hpa_tf.devices import mirrored_strategy
from hpa_tf.errors import InputError
from hpa_tf.training.cluster import read_cluster
from hpa_tf.worker_processes import num_cores

StrategyName = Literal["one", "mirrored", "multiworker", "tpu"]
Precision = Literal["auto", "float32", "mixed_float16", "mixed_bfloat16"]


def make_strategy(name: StrategyName) -> tf.distribute.Strategy:
    """Return the strategy; `multiworker` waits here for its peers. Call it before any other TensorFlow op.

    Raises:
        InputError: What the strategy needs is not there.
    """
    if name == "one":
        return tf.distribute.OneDeviceStrategy("/gpu:0" if tf.config.list_logical_devices("GPU") else "/cpu:0")
    if name == "mirrored":
        return mirrored_strategy()
    if name == "multiworker":
        return _multi_worker_strategy()
    return _tpu_strategy()


def _multi_worker_strategy() -> tf.distribute.Strategy:
    addresses, index = read_cluster()
    others = ", ".join(address for i, address in enumerate(addresses) if i != index)
    if others:
        print(f"process {index + 1} of {len(addresses)}: waiting for {others}", flush=True)
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except (ValueError, RuntimeError, tf.errors.OpError) as error:
        found = f"no cluster with {others or addresses[0]} ({str(error).splitlines()[0][:200]})"
        fix = "check that the addresses are reachable and free, and that every process has an index of its own"
        raise InputError("TF_CONFIG", found, f"a cluster in which this is {addresses[index]}", fix) from error


def _tpu_strategy() -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=os.environ.get("TPU_NAME", "local"))
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, OSError, tf.errors.OpError) as error:
        found = f"no TPU ({str(error).splitlines()[0][:200]})"
        fix = "run on a TPU machine with tensorflow-tpu in place of tensorflow, which is to be uninstalled first"
        fix += " (docs/training.md, 'A TPU VM'); where the TPU is not a local one, set TPU_NAME"
        raise InputError("--strategy tpu", found, "a TPU", fix) from error
    return tf.distribute.TPUStrategy(resolver)


def is_tpu(strategy: tf.distribute.Strategy) -> bool:
    """Tell whether a strategy runs on TPU."""
    return isinstance(strategy, tf.distribute.TPUStrategy)


def worker(strategy: tf.distribute.Strategy) -> tuple[int, int]:
    """Return (index of this process, number of processes); (0, 1) but for multiworker."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 0, 1
    addresses, index = read_cluster()
    return index, len(addresses)


def gathered(strategy: tf.distribute.Strategy, values: Sequence[int]) -> list[list[int]]:
    """Return the numbers that each worker called this with, worker by worker; all workers have to call it."""

    rows = _gather_of(strategy)(tf.constant([list(values)], tf.int32)).numpy().tolist()
    return rows[:: len(rows) // worker(strategy)[1]]


@functools.cache
def _gather_of(strategy: tf.distribute.Strategy) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return a graph function, traced once, from one row of each worker to a row of every replica."""

    @tf.function
    def gather(row: tf.Tensor) -> tf.Tensor:
        return strategy.gather(strategy.run(lambda: tf.identity(row)), axis=0)

    return gather


def chief_says(strategy: tf.distribute.Strategy, answer: bool) -> bool:
    """Return the first worker's answer on every worker, of what others may see otherwise; all have to call it."""
    return bool(gathered(strategy, [int(answer)])[0][0]) if worker(strategy)[1] > 1 else answer


def wait_for_all(strategy: tf.distribute.Strategy) -> None:
    """Wait until every worker has come here."""
    if worker(strategy)[1] > 1:
        gathered(strategy, [1])


def leave_together(strategy: tf.distribute.Strategy) -> None:
    """Wait until every worker has come here to end: one that is gone breaks what others are still receiving from it."""
    with contextlib.suppress(tf.errors.OpError):  # the last message itself may meet a worker that is gone
        wait_for_all(strategy)


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
    names = ", ".join(sorted({detail.get("device_name", "GPU") for detail in here})) or f"CPU, {num_cores()} cores"
    devices = ", ".join(device.split("task:")[-1] for device in strategy.extended.worker_devices)
    process = f" | process {index + 1} of {count}" if count > 1 else ""
    replicas = strategy.num_replicas_in_sync
    return (
        f"{type(strategy).__name__} | {replicas} replica(s) on {devices} ({names}){process} | {policy} | "
        f"TensorFlow {tf.__version__}, Python {sys.version.split()[0]}"
    )

"""Run the real `train.py` in processes of their own, which the tests may kill.

A fork server imports TensorFlow once; each training is a fork of it that starts TensorFlow's runtime itself, so it can
have its own number of logical CPU devices, its own TF_CONFIG and its own death. It is not the fork server that Python
keeps for all of a process: that one belongs to the pools of the code under test, which do without TensorFlow, and
whichever of the two were first would decide what all forks have imported.
"""

import json
import multiprocessing
import os
import signal
import socket
from collections.abc import Sequence
from multiprocessing import forkserver
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
from shards import one_hot, write_dataset

from hpa_tf.classes import NUM_CLASSES
from hpa_tf.training.logs import TIMES

_CONTEXT = multiprocessing.get_context("forkserver")
_SERVER = forkserver.ForkServer()
_SERVER.set_forkserver_preload(["hpa_tf.training.command"])


def words(text: str) -> list[str]:
    """Return the arguments in a command line."""
    return text.split()


TINY = words(
    "--recipe cpu_small --recipe.network.backbone.widths 8 16 --recipe.view.size 16 --recipe.optimization.batch-size 8 "
    "--recipe.optimization.warmup-steps 2 --recipe.optimization.ema-decay 0.9 --recipe.augmentation.rotation 90 "
    "--log-steps 1"
)
"""A network with batch norm and dropout, and everything that has state: learning rate, moving average, Adam."""


def write_tiny_dataset(folder: Path, num_cells: int = 48) -> Path:
    """Write a dataset of noise with random labels, 2 folds."""
    rng = np.random.default_rng(0)
    labels = np.stack([one_hot(*rng.choice(NUM_CLASSES - 1, 2, replace=False)) for _ in range(num_cells)])
    write_dataset(folder, labels)
    return folder


def start(
    arguments: Sequence[str], *, devices: int = 1, tf_config: dict | None = None, die: tuple[str, int] | None = None
) -> multiprocessing.Process:
    """Start a training.

    Args:
        arguments: Of train.py.
        devices: Logical CPU devices.
        tf_config: TF_CONFIG of a worker.
        die: ("step", n): SIGKILL before step n; ("write", n): SIGKILL when the temporary file of the n-th checkpoint
            that this process writes is there and not yet renamed; ("term", n): SIGTERM before step n; ("validate", n):
            SIGTERM when epoch n (from 0) is to be measured; ("trace", n): SIGTERM while step n, the first, is traced.
    """
    process = _CONTEXT.Process(target=_child, args=(list(arguments), devices, tf_config, die))
    with mock.patch.object(forkserver, "connect_to_new_process", _SERVER.connect_to_new_process):
        process.start()
    return process


def train(arguments: Sequence[str], **options) -> int:
    """Run a training to its end; return its exit code, negative for a signal."""
    process = start(arguments, **options)
    process.join(timeout=300)
    return process.exitcode


def workers_config(count: int) -> list[dict]:
    """Return a TF_CONFIG for each of `count` workers on free ports of this machine."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    return [{"cluster": {"worker": addresses}, "task": {"type": "worker", "index": i}} for i in range(count)]


def losses(out: Path) -> np.ndarray:
    """Return the loss of each step, as TensorBoard has it."""
    import tensorflow as tf

    found = {}
    for path in sorted((out / "logs").glob("events*")):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                if value.tag == "loss":
                    found[event.step] = float(tf.make_ndarray(value.tensor))
    return np.array([found[step] for step in sorted(found)])


def final_state(out: Path) -> dict[str, np.ndarray]:
    """Return the arrays of the newest checkpoint."""
    with np.load(max((out / "checkpoints").glob("step-*.npz"))) as stored:
        return {name: stored[name] for name in stored.files if name != "log"}


def logged(out: Path) -> pd.DataFrame:
    """Return the history without the columns that say how fast."""
    return pd.read_csv(out / "history.csv").drop(columns=list(TIMES))


def assert_identical(out: Path, reference: Path) -> None:
    """Check that two run folders hold the same training, to the bit."""
    pd.testing.assert_frame_equal(logged(out), logged(reference), check_exact=True)
    state, expected = final_state(out), final_state(reference)
    assert state.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(state[name], expected[name], err_msg=name)
    np.testing.assert_array_equal(losses(out), losses(reference))
    results = [json.loads((folder / "result.json").read_text()) for folder in (out, reference)]
    for result in results:
        del result["sha256"], result["history_sha256"]  # over the times, too
        for row in ("best", "scored"):
            result[row] = {name: value for name, value in result[row].items() if name not in TIMES}
    assert results[0] == results[1]
    assert sorted(p.name for p in (out / "weights").iterdir()) == sorted(
        p.name for p in (reference / "weights").iterdir()
    )


def dynamic_shapes(recipe, examples) -> list[tuple]:
    """Return (name, shape) of what has no static shape in a training step of a recipe, traced in bfloat16."""
    import tensorflow as tf

    from hpa_tf.pipeline import training_batches
    from hpa_tf.training.strategy import make_strategy
    from hpa_tf.training.trainee import Trainee

    trainee = Trainee(recipe, make_strategy("one"), "mixed_bfloat16")
    options = {"batch_size": 8, "seed": 0, "epoch": 0, "sampling": recipe.sampling}
    batch = training_batches(examples, recipe.view, **options).element_spec
    traced = trainee.make_train_step().get_concrete_function(batch, *[tf.TensorSpec((), tf.float32)] * 2)
    graphs = [traced.graph, *(f.graph for f in traced.graph._functions.values() if hasattr(f, "graph"))]
    assert len(traced.graph.get_operations()) > 100
    outputs = [(op, output) for graph in graphs for op in graph.get_operations() for output in op.outputs]
    return [
        (op.name, output.shape)
        for op, output in outputs
        if output.dtype not in (tf.resource, tf.variant)
        and not output.shape.is_fully_defined()
        and not _is_scratch(output)
    ]


def _is_scratch(tensor) -> bool:
    """Tell whether a tensor is the fused batch norm's own scratch space (or zeros in its place): TPUs have none."""
    if tensor.op.type == "ZerosLike":
        return _is_scratch(tensor.op.inputs[0])
    return tensor.value_index in {"FusedBatchNormV3": (5,), "FusedBatchNormGradV3": (3, 4)}.get(tensor.op.type, ())


def _child(arguments: list[str], devices: int, tf_config: dict | None, die: tuple[str, int] | None) -> None:
    if tf_config:
        os.environ["TF_CONFIG"] = json.dumps(tf_config)
    import tensorflow as tf
    import toy_networks  # noqa: F401  recipes may name them

    from hpa_tf import files, interrupts
    from hpa_tf.training import loop, run
    from hpa_tf.training.command import main
    from hpa_tf.training.loop import Loop
    from hpa_tf.training.trainee import Trainee

    run.export = lambda *arguments: None  # tested with the SavedModel; it takes longer than these trainings
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * devices)
    if die is not None and die[0] in ("step", "term"):
        execute, number = Loop.execute, signal.SIGKILL if die[0] == "step" else signal.SIGTERM

        def deadly(self, *arguments, **options):
            if self.progress.step == die[1]:
                os.kill(os.getpid(), number)
            return execute(self, *arguments, **options)

        Loop.execute = deadly
    if die is not None and die[0] == "validate":
        predict = loop.predict

        def deadly_predict(strategy, predict_step, recipe, examples, between):
            def between_batches():
                if len(between.__self__.progress.rows) == die[1]:
                    os.kill(os.getpid(), signal.SIGTERM)
                between()

            return predict(strategy, predict_step, recipe, examples, between_batches)

        loop.predict = deadly_predict
    if die is not None and die[0] == "trace":
        move = Trainee._move_average
        Trainee._move_average = lambda *arguments: (os.kill(os.getpid(), signal.SIGTERM), move(*arguments))
    if die is not None and die[0] == "write":
        replace, seen = files.os.replace, []

        def deadly_replace(source, target):
            seen.extend([target] if str(target).endswith(".npz") else [])
            if len(seen) == die[1]:
                os.truncate(source, os.path.getsize(source) // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            replace(source, target)

        files.os.replace = deadly_replace
    raise SystemExit(interrupts.run("train.py", lambda: main(arguments)))

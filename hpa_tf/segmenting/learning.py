"""Training of the small network, in steps that can be stopped and continued, and its file for OpenCV."""

import dataclasses
import io
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from hpa_tf import files
from hpa_tf.errors import InputError
from hpa_tf.identity import check_same
from hpa_tf.models.small_unet import SmallUnet
from hpa_tf.segmenting.tiles import Example, TileMaker, Tiles, read_examples
from hpa_tf.synthetic.dataset import CONFIG

CHECKPOINT = "checkpoint.npz"
ONNX = "small_segmenter.onnx"
_OPSET = 13


@dataclass(frozen=True)
class Training:
    """How the network is trained.

    Attributes:
        folders: Generated data sets of 0.32 um/px.
        out: Folder of the checkpoint.
        steps: Steps in all.
        rate: Highest learning rate.
        decay: Weight decay.
        warm_up: Steps in which the rate rises.
        save_every: Steps between checkpoints.
        tiles: How tiles are drawn.
        network: The network's sizes.
    """

    folders: tuple[str, ...]
    out: str
    steps: int = 1200
    rate: float = 3e-3
    decay: float = 1e-4
    warm_up: int = 100
    save_every: int = 200
    tiles: TileMaker = field(default_factory=TileMaker)
    network: SmallUnet = field(default_factory=SmallUnet)

    def learning_rate(self, step: int) -> float:
        """Rise, then fall as a cosine to 1 % of the highest rate."""
        if step < self.warm_up:
            return self.rate * (step + 1) / self.warm_up
        done = (step - self.warm_up) / max(1, self.steps - self.warm_up)
        return self.rate * (0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * done)))


def train(training: Training) -> keras.Model:
    """Train, from the checkpoint if there is one; return the network."""
    files.make_folder(training.out)
    keras.utils.set_random_seed(training.tiles.seed)
    size = training.tiles.size
    network = training.network.build()
    optimizer = keras.optimizers.AdamW(training.rate, weight_decay=training.decay, global_clipnorm=1.0)
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    optimizer.build(network.trainable_variables)
    first = _restore(training, network, optimizer)
    if first >= training.steps:
        return network
    examples = read_examples(training.folders)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, size, size, 3], tf.float32),
            tf.TensorSpec([None, size, size, 2], tf.int32),
            tf.TensorSpec([None, size, size, 2], tf.float32),
        ]
    )
    def take_step(pixels, classes, weight):
        with tf.GradientTape() as tape:
            loss = pixel_loss(network(pixels, training=True), classes, weight)
        gradients = tape.gradient(loss, network.trainable_variables)
        optimizer.apply(gradients, network.trainable_variables)
        return loss

    start, losses = time.monotonic(), []
    for step, tiles in _ahead(training, examples, first):
        optimizer.learning_rate.assign(training.learning_rate(step))
        losses.append(float(take_step(*map(tf.constant, tiles))))
        if (step + 1) % training.save_every == 0 or step + 1 == training.steps:
            _save(training, network, optimizer, step + 1)
            pace = (time.monotonic() - start) / (step + 1 - first)
            print(f"step {step + 1} of {training.steps}: loss {np.mean(losses):.4f}, {pace:.2f} s a step", flush=True)
            losses = []
    return network


def _ahead(training: Training, examples: list[Example], first: int) -> Iterator[tuple[int, Tiles]]:
    """Yield the steps and their tiles; the next step's are drawn meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        drawn = pool.submit(training.tiles, examples, first)
        for step in range(first, training.steps):
            tiles = drawn.result()
            drawn = pool.submit(training.tiles, examples, step + 1)
            yield step, tiles


def pixel_loss(logits: tf.Tensor, classes: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """Return the weighted mean cross-entropy of both answers.

    Args:
        logits: float32 [B, S, S, 6].
        classes: int32 [B, S, S, 2].
        weight: float32 [B, S, S, 2].
    """
    total = 0.0
    for answer in range(2):
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(classes[..., answer], logits[..., 3 * answer :][..., :3])
        total += tf.reduce_sum(loss * weight[..., answer]) / tf.reduce_sum(weight[..., answer])
    return total


def _state(network, optimizer) -> list:
    return [*network.variables, *optimizer.variables]


def _save(training: Training, network, optimizer, step: int) -> None:
    stream = io.BytesIO()
    arrays = {f"v{i}": variable.numpy() for i, variable in enumerate(_state(network, optimizer))}
    np.savez(stream, step=step, about=json.dumps(_about(training)), **arrays)
    files.write_bytes(os.path.join(training.out, CHECKPOINT), stream.getvalue())


def _about(training: Training) -> dict:
    """Return what decides the weights, as JSON values: of the data sets how they were generated, not where they are."""
    values = dataclasses.asdict(training)
    kept = {name: value for name, value in values.items() if name not in ("folders", "out", "save_every")}
    kept["data_sets"] = [files.read_json(os.path.join(folder, CONFIG)) for folder in training.folders]
    return json.loads(json.dumps(kept))


def _restore(training: Training, network, optimizer) -> int:
    """Set the state of the checkpoint, if there is one; return the steps that it has.

    Raises:
        InputError: It is damaged, or of another training.
    """
    path = os.path.join(training.out, CHECKPOINT)
    if not files.exists(path):
        return 0
    state = _state(network, optimizer)
    try:
        with np.load(io.BytesIO(files.read_bytes(path)), allow_pickle=False) as stored:
            about, step = json.loads(str(stored["about"])), int(stored["step"])
            arrays = [stored[f"v{i}"] for i in range(len(stored.files) - 2)]
    except files.DAMAGED_NPZ as error:
        fix = "remove it: the training begins anew"
        raise InputError(path, f"a damaged file ({error})", "a checkpoint", fix) from error
    check_same(path, about, _about(training), "training", "choose another --out")
    for variable, array in zip(state, arrays, strict=True):
        variable.assign(array)
    return step


def write_onnx(network: keras.Model, path: str | os.PathLike) -> None:
    """Write the network for OpenCV: ONNX, float32 [1, H, W, 3] -> logits [1, H, W, 6].

    Raises:
        InputError: tf2onnx is not installed.
    """
    try:
        import tf2onnx
    except ImportError as error:
        raise InputError("tf2onnx", "it is not installed", "tf2onnx", "pip install 'hpa_tf[onnx]'") from error
    spec = tf.TensorSpec([1, None, None, 3], tf.float32, "pixels")
    infer = tf.function(lambda pixels: {"logits": network(pixels, training=False)}, input_signature=[spec])
    model, _ = tf2onnx.convert.from_function(infer, [spec], opset=_OPSET)
    files.write_bytes(Path(path), model.SerializeToString())

"""Short cuts: what channel means and histograms say about synthetic cells, beside what a small network sees.

    python benchmarks/shortcut.py [--num-images 700] [--epochs 8]

Both learn from the true labels of the same whole cells (all classes equally frequent) and are scored on the cells of
other images by the mean over the classes of the average precision.
"""

import argparse
import time

import cv2
import keras
import numpy as np
from tqdm import tqdm

from hpa_tf.classes import CLASSES, NUM_CLASSES
from hpa_tf.synthetic import shortcuts
from hpa_tf.synthetic.config import SyntheticConfig
from hpa_tf.synthetic.generator import SyntheticField, make

CROP_PX = 96
"""Edge of the network's input at 0.32 um/px: 31 um, the cell's own scale (larger cells are cut)."""


def crops(made: SyntheticField) -> np.ndarray:
    """Cut the whole cells of a field out, other cells blackened: uint8 [N, 96, 96, 4], not rescaled."""
    table = made.truth[(made.truth["artefact"] == "") & ~made.truth["cut"]]
    cut = []
    for row in table.itertuples():
        middle = ((row.left + row.right) / 2 - 0.5, (row.top + row.bottom) / 2 - 0.5)
        masked = made.field.pixels * (made.masks.cell == row.cell)[..., None].astype(np.uint8)
        planes = [cv2.getRectSubPix(np.ascontiguousarray(masked[..., c]), (CROP_PX,) * 2, middle) for c in range(4)]
        cut.append(np.stack(planes, axis=-1))
    return np.array(cut, np.uint8).reshape(-1, CROP_PX, CROP_PX, 4)


def network() -> keras.Model:
    """Return a plain convolutional network of 0.4 M parameters."""
    inputs = keras.Input((CROP_PX, CROP_PX, 4))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    for width, stride in ((24, 1), (48, 1), (96, 1), (160, 1)):
        x = keras.layers.Conv2D(width, 3, stride, padding="same", use_bias=False)(x)
        x = keras.layers.BatchNormalization(momentum=0.9)(x)
        x = keras.layers.ReLU()(x)
        x = keras.layers.MaxPooling2D(2)(x)
    x = keras.layers.Conv2D(160, 3, padding="same", activation="relu")(x)
    pooled = [keras.layers.GlobalAveragePooling2D()(x), keras.layers.GlobalMaxPooling2D()(x)]
    x = keras.layers.Dropout(0.3)(keras.layers.Concatenate()(pooled))
    return keras.Model(inputs, keras.layers.Dense(NUM_CLASSES, activation="sigmoid")(x))


def network_scores(train: tuple[np.ndarray, np.ndarray], pictures: np.ndarray, epochs: int) -> np.ndarray:
    """Train on (crops, truth) and score other crops: [N, K]."""
    keras.utils.set_random_seed(0)
    model = network()
    known, truth = train
    steps = epochs * int(np.ceil(len(known) / 48))
    schedule = keras.optimizers.schedules.CosineDecay(0.0, steps, 0.02, warmup_target=2e-3, warmup_steps=steps // 10)
    model.compile(keras.optimizers.Adam(schedule), "binary_crossentropy")
    rng = np.random.default_rng(0)
    for epoch in range(epochs):
        flipped = known[:, :: rng.choice([-1, 1]), :: rng.choice([-1, 1])]
        turned = np.swapaxes(flipped, 1, 2) if epoch % 2 else flipped
        model.fit(turned, truth.astype(np.float32), batch_size=48, epochs=1, verbose=2)
    return model.predict(pictures, batch_size=128, verbose=0)


def main() -> None:
    """Print both figures, and the average precision of each class."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-images", type=int, default=700)
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args()
    config = SyntheticConfig(seed=21, balance=1.0, cells=(5, 30))
    num_train = int(0.8 * options.num_images)
    features, pictures, truth, is_train = [], [], [], []
    for index in tqdm(range(options.num_images), desc="images"):
        made = make(config, index)
        measured, labels = shortcuts.channel_features(made)
        features.append(measured)
        truth.append(labels)
        pictures.append(crops(made))
        is_train.append(np.full(len(labels), index < num_train))
    features, pictures, truth, is_train = map(np.concatenate, (features, pictures, truth, is_train))
    started = time.perf_counter()
    scores = {
        "logistic regression on means and histograms": shortcuts.logistic_scores(
            (features[is_train], truth[is_train]), features[~is_train]
        ),
        "small network on the pictures": network_scores(
            (pictures[is_train], truth[is_train]), pictures[~is_train], options.epochs
        ),
    }
    held_out = truth[~is_train]
    print(f"{is_train.sum()} cells to learn from, {len(held_out)} to score, {time.perf_counter() - started:.0f} s")
    print(f"{'chance':46}{held_out.mean():.3f}")
    for name, found in scores.items():
        print(f"{name:46}{shortcuts.macro_average_precision(held_out, found):.3f}")
    for class_id, name in enumerate(CLASSES):
        one = [shortcuts.macro_average_precision(held_out[:, [class_id]], s[:, [class_id]]) for s in scores.values()]
        print(f"{name:42}" + "".join(f"{value:8.2f}" for value in one))


if __name__ == "__main__":
    main()

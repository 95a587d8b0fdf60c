"""Short cuts: what channel means and histograms say about synthetic cells, beside what a small network sees.

    python -m hpa_tf.synthetic --out train --num-images 400 --balance 1 --seed 1
    python -m hpa_tf.synthetic --out test --num-images 150 --balance 1 --seed 2
    python benchmarks/shortcut.py --train train --test test

Both learn from the true labels of the same whole cells and are scored on the cells of
other images by the mean over the classes of the average precision.
"""

import argparse

import cv2
import keras
import numpy as np

from hpa_tf import files
from hpa_tf.classes import CHANNELS, CLASSES, NUM_CLASSES
from hpa_tf.imaging.fields import FieldOfView
from hpa_tf.imaging.segmentation import Masks
from hpa_tf.progress import progress
from hpa_tf.synthetic import dataset, shortcuts
from hpa_tf.synthetic.generator import SyntheticField

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
    """Return a plain convolutional network of 0.4 M parameters and 20 M multiplications."""
    inputs = keras.Input((CROP_PX, CROP_PX, 4))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    for width, stride in ((24, 2), (48, 1), (96, 1), (160, 1)):
        x = keras.layers.Conv2D(width, 3, stride, padding="same", use_bias=False)(x)
        x = keras.layers.BatchNormalization(momentum=0.9)(x)
        x = keras.layers.ReLU()(x)
        x = x if stride == 2 else keras.layers.MaxPooling2D(2)(x)
    x = keras.layers.Conv2D(160, 3, padding="same", activation="relu")(x)
    pooled = [keras.layers.GlobalAveragePooling2D()(x), keras.layers.GlobalMaxPooling2D()(x)]
    x = keras.layers.Dropout(0.3)(keras.layers.Concatenate()(pooled))
    return keras.Model(inputs, keras.layers.Dense(NUM_CLASSES, activation="sigmoid")(x))


def read_cells(folder: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read the whole cells of a data set: features [N, 108], crops [N, 96, 96, 4], truth [N, K]."""
    data = dataset.read(folder)
    parts = []
    for name in progress(data.image_ids, desc=folder, unit="image"):
        paths = [files.join(folder, dataset.IMAGES, f"{name}_{channel}.png") for channel in CHANNELS]
        pixels = np.stack([cv2.imread(path, cv2.IMREAD_GRAYSCALE) for path in paths], axis=-1)  # 16 bit becomes 8
        mask = cv2.imread(files.join(folder, dataset.MASKS, f"{name}_cellmask.png"), cv2.IMREAD_UNCHANGED)
        truth = data.truth[data.truth["image_id"] == name]
        masks = Masks(nucleus=np.zeros_like(mask), cell=mask.astype(np.int32))
        field = SyntheticField(FieldOfView(name, pixels, data.config["um_per_px"]), masks, truth, np.zeros(NUM_CLASSES))
        features, labels = shortcuts.channel_features(field)
        parts.append((features, crops(field), labels))
    return tuple(np.concatenate(values) for values in zip(*parts, strict=True))


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True, help="synthetic data set of 512 px, 8 bit, to learn from")
    parser.add_argument("--test", required=True, help="another one to score on")
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args()
    (features, pictures, truth), (new_features, new_pictures, held_out) = map(read_cells, (options.train, options.test))
    print(f"{len(truth)} cells to learn from, {len(held_out)} to score")
    print(f"{'chance':46}{held_out[:, held_out.any(0)].mean():.3f}")
    scores = []
    for name, score in (
        (
            "logistic regression on means and histograms",
            lambda: shortcuts.logistic_scores((features, truth), new_features),
        ),
        ("small network on the pictures", lambda: network_scores((pictures, truth), new_pictures, options.epochs)),
    ):
        scores.append(score())
        print(f"{name:46}{shortcuts.macro_average_precision(held_out, scores[-1]):.3f}", flush=True)
    for class_id in np.flatnonzero(held_out.any(0)):
        one = [shortcuts.macro_average_precision(held_out[:, [class_id]], s[:, [class_id]]) for s in scores]
        print(f"{CLASSES[class_id]:42}" + "".join(f"{value:8.2f}" for value in one))


if __name__ == "__main__":
    main()

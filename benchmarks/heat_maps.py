"""Which heat map of a class lies best on the protein, and tells the right class from a wrong one.

    python benchmarks/heat_maps.py --run demo/run --images demo/test/images --masks demo/test/masks \
        --truth-labels demo/test/truth.parquet [--num-images 20]

For each true class of each cell: IoU of binarised map and binarised green in the cell, at the size of the network's
input (both cut at Otsu's threshold), and that of the same map of a class which the cell has not. A map that shows what
is bright and not what the class is has both alike. Maps that are 0 all over are left out of both. HiResCAM is the one
in use: `hpa_tf.serving.heat_maps`. FCAN sees each cell alone at its place in the field, as it is asked about cells.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace

import cv2
import keras
import numpy as np
import tensorflow as tf
import tyro

from hpa_tf import cell_table
from hpa_tf.classes import GREEN, NEGATIVE
from hpa_tf.evaluation.heat import above_otsu, iou
from hpa_tf.imaging.cells import cut_cells
from hpa_tf.imaging.fields import MAX_PIXELS, FieldOfView, find_fields, read_field
from hpa_tf.imaging.segmentation import Masks
from hpa_tf.imaging.segmentation.masks_on_disk import MasksOnDisk
from hpa_tf.imaging.squares import to_square
from hpa_tf.models.network import HEAD, Spec
from hpa_tf.recipes.runs import read_run
from hpa_tf.serving.heat_maps import added, hires_cam, scaled, with_maps
from hpa_tf.views import AnyView, Crop
from hpa_tf.views.asking import square_of
from hpa_tf.views.crop import prepare

_BATCH = 64
Maps = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Images [B, S, S, 4] and classes [B] -> maps [B, h, w]."""


@dataclass(frozen=True)
class Options:
    """What is measured."""

    run: str
    """Run folder of a network of single cells, or of an FCAN."""
    images: str
    """Folder of images."""
    masks: str
    """Their cell masks."""
    truth_labels: str
    """True labels of the cells, a cell table."""
    num_images: int = 20
    """Images."""
    seed: int = 0
    """Seed of the wrong classes."""


def read_cells(options: Options, view: AnyView, dataset: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return prepared images [N, S, S, 4], which of their pixels are in the cell, and true labels [N, 18].

    Args:
        options: What is measured.
        view: What the network sees.
        dataset: Manifest of its training data, from JSON.
    """
    truth = cell_table.read(options.truth_labels)
    labels = dict(zip(zip(truth["image_id"], truth["cell"], strict=True), cell_table.values(truth) > 0.5, strict=True))
    masks = MasksOnDisk(options.masks, None, None, MAX_PIXELS)
    found = []
    for files in find_fields(options.images)[: options.num_images]:
        field = read_field(files)
        for number, image, inside in (_crops if isinstance(view, Crop) else _alone)(field, masks(field), view, dataset):
            if (files.image_id, number) in labels:
                found.append((image, inside, labels[files.image_id, number][:NEGATIVE]))
    return tuple(np.stack(column) for column in zip(*found, strict=True))


Seen = Iterator[tuple[int, np.ndarray, np.ndarray]]


def _crops(field: FieldOfView, masks: Masks, view: AnyView, dataset: dict) -> Seen:
    for cell in cut_cells(field, masks, 0):
        white, region = np.full_like(cell.crop, np.iinfo(cell.crop.dtype).max), tf.constant(cell.region)
        image, inside = (prepare(tf.constant(crop), region, view).numpy() for crop in (cell.crop, white))
        yield cell.number, image, inside[..., 0] > 0.5


def _alone(field: FieldOfView, masks: Masks, view: AnyView, dataset: dict) -> Seen:
    numbers = np.unique(masks.cell[masks.cell > 0]).tolist()
    pixels, square, _ = to_square(field.pixels, masks.cell, numbers, square_of(view, dataset).size)
    for k, number in enumerate(numbers, start=1):
        stored = {"image": pixels, "masks": square, "numbers": np.array([k], np.int32)}
        prepared = replace(view, num_cells=1).prepare({name: tf.constant(value) for name, value in stored.items()})
        inside = prepared["masks"].numpy() == 1
        if inside.any():
            yield number, prepared["image"].numpy() * inside[..., None], inside


def methods(network: keras.Model, enlarged: dict[int, keras.Model]) -> dict[str, Maps]:
    """Return each way to draw a map, by name.

    Args:
        network: From images to `logits`.
        enlarged: The same for larger images, by their size; looked at where it has class-activation maps.
    """
    maps = with_maps(network)
    has_cam = "cam" in network.output

    def cam(model: keras.Model, size: int) -> Maps:
        def draw(images: np.ndarray, classes: np.ndarray) -> np.ndarray:
            large = tf.image.resize(images, (size, size))
            found = model({"image": large}, training=False)["cam"]
            return tf.nn.relu(tf.gather(found, classes, axis=3, batch_dims=1)).numpy()

        return draw

    def by_gradient(combine: Callable) -> Maps:
        @tf.function
        def draw(images: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(images)
                outputs = maps({"image": images}, training=False)
                logit = tf.gather(outputs["logits"], classes, axis=1, batch_dims=1)
            return combine(images, outputs["maps"], tape.gradient(logit, [images, *outputs["maps"]]))

        return lambda images, classes: draw(tf.constant(images), tf.constant(classes)).numpy()

    def layer_cam(images: tf.Tensor, features: list, gradients: list) -> tf.Tensor:
        pairs = zip(features, gradients[1:], strict=True)
        return added([scaled(tf.reduce_sum(tf.nn.relu(g) * tf.nn.relu(f), -1)) for f, g in pairs])

    def times_input(images: tf.Tensor, features: list, gradients: list) -> tf.Tensor:
        return tf.nn.avg_pool2d(tf.reduce_sum(tf.nn.relu(images * gradients[0]), -1)[..., None], 5, 1, "SAME")[..., 0]

    @tf.function
    def by_place(images: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        features = network({"image": images}, training=False)["features"]
        size = features.shape[1]
        logits, _ = network.get_layer(f"{HEAD}mean_max")(tf.reshape(features, (-1, 1, 1, features.shape[3])))
        of_class = tf.gather(tf.reshape(logits, (-1, size, size, logits.shape[1])), classes, axis=3, batch_dims=1)
        return of_class - tf.reduce_min(of_class, axis=(1, 2), keepdims=True)

    ours = tf.function(lambda images, classes: hires_cam(maps, {"image": images}, classes[:, None])[:, 0])
    last = {"the head at each place of the last map": lambda *two: by_place(*map(tf.constant, two)).numpy()}
    if has_cam:
        last = {
            "class-activation map, stride 32": cam(network, network.input["image"].shape[1]),
            **{f"the same of the crop at {size} px": cam(model, size) for size, model in enlarged.items()},
        }
    return {
        **last,
        "LayerCAM, strides 8 and 16": by_gradient(layer_cam),
        "HiResCAM, strides 8 and 16": lambda images, classes: ours(tf.constant(images), tf.constant(classes)).numpy(),
        "input x gradient, smoothed": by_gradient(times_input),
        "brightness of all channels": lambda images, classes: images.sum(axis=-1),
    }


def overlaps(draw: Maps, images: np.ndarray, inside: np.ndarray, cells: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return (IoU, IoU at chance) of each pair of cell and class, float64 [P, 2]."""
    found = []
    for start in range(0, len(cells), _BATCH):
        rows = cells[start : start + _BATCH]
        for row, heat in zip(rows, draw(images[rows], classes[start : start + _BATCH]), strict=True):
            full = cv2.resize(heat.astype(np.float32), inside.shape[1:], interpolation=cv2.INTER_LINEAR)
            one, other = above_otsu(full[inside[row]]), above_otsu(images[row][..., GREEN][inside[row]])
            if one is None or other is None:  # a map that is 0 all over says nothing, right or wrong
                found.append((np.nan, np.nan))
                continue
            a, b = one.mean(), other.mean()
            found.append((iou(one, other), a * b / max(a + b - a * b, 1e-9)))
    return np.array(found)


def main(options: Options) -> None:
    """Print a row a method."""
    run, rng = read_run(options.run), np.random.default_rng(options.seed)
    view, (path, _) = run.recipe.asked_view, run.checkpoints[-1]
    built = {}
    for size in (view.size, 2 * view.size, 4 * view.size) if isinstance(view, Crop) else (view.size,):
        built[size] = run.recipe.network.build({"image": Spec((size, size, len(view.channels)))})
        built[size].load_weights(path)
    images, inside, labels = read_cells(options, view, asdict(run.manifest))
    cells, classes = (column.astype(np.int32) for column in np.nonzero(labels))
    wrong = np.array([rng.choice(np.flatnonzero(~labels[cell])) for cell in cells], np.int32)
    print(f"{len(cells)} classes of {len(images)} cells, {run.recipe.name}, {view.size} px")
    print(f"{'':<36} {'IoU':>6} {'chance':>7} {'wrong class':>12} {'right - wrong, +- standard error':>33}")
    for name, draw in methods(built.pop(view.size), built).items():
        right, other = (overlaps(draw, images, inside, cells, of) for of in (classes, wrong))
        gain = (right - other)[:, 0]
        error = np.nanstd(gain) / np.sqrt(np.isfinite(gain).sum())
        numbers = f"{np.nanmean(right[:, 0]):6.3f} {np.nanmean(right[:, 1]):7.3f} {np.nanmean(other[:, 0]):12.3f}"
        print(f"{name:<36} {numbers} {np.nanmean(gain):>20.3f} +- {error:.3f}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options))

"""Processor time a picture of each augmentation of the teams' recipes; part of `loader.py`.

    python benchmarks/loader.py --only-steps [--names Gamma "recipe cpu_"]

Each step always happens, on 4 channels of a crop and, with its masks, of a field of view. A recipe's whole augmentation
happens as often as it says, on a crop, a cell of a bag or a field as its network is trained on. Pasted and cut cells,
for which other records are read, are left out.
"""

import dataclasses
import time
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from hpa_tf.pipeline import NO_AUGMENTATION, Augmentation, augment_record
from hpa_tf.pipeline.photometry import Blur, Brightness, Gamma, Holes, MedianBlur, MotionBlur, Noise, Staining
from hpa_tf.pipeline.steps import AnyStep, OneOf
from hpa_tf.pipeline.warps import Affine, ElasticDistortion, GridDistortion, OpticalDistortion, Perspective
from hpa_tf.recipes import Recipe, recipe_named

SIZES = {128: False, 512: True}
"""Sides, px, and whether there are masks."""
STEPS: tuple[AnyStep, ...] = (
    *(Affine(rotation=45, shear=5), Perspective(), OpticalDistortion(), GridDistortion(), ElasticDistortion()),
    *(Noise(), Holes(), Blur(), MotionBlur(), MedianBlur(sizes=(3,)), MedianBlur(sizes=(5,)), MedianBlur(sizes=(7,))),
    *(Gamma(), Brightness(), Staining()),
)
RECIPES = (
    *("bestfitting_fcan", "bestfitting_inception", "cpu_fcan", "cpu_bestfitting_cells"),
    *("red_ai_duo_b3", "red_ai_field_b5", "cpu_duo_branch", "cpu_red_ai_field", "cpu_red_ai_cell"),
    *("mpware_puzzle_cam", "dieter_bag_26", "dieter_masks", "zfturbo_6_channels"),
    *("cpu_puzzle_cam", "cpu_mask_pooled", "cpu_student", "cpu_student_green"),
    *("milimed_b0_flips", "milimed_b0_resizer", "milimed_b0_pad", "cpu_flips", "cpu_resizer", "cpu_pad", "starter"),
)
"""Each augmentation of each team, at full size and for two cores."""


def cost(augmentation: Augmentation, size: int, with_masks: bool, count: int, channels: int = 4) -> float:
    """Return processor seconds a picture of the best of three passes over `count` of them, after one that traces."""
    rng = np.random.default_rng(0)
    picture = {"image": tf.constant(rng.random((size, size, channels), np.float32))}
    if with_masks:
        picture["masks"] = tf.constant(np.arange(size * size).reshape(size, size) // (size * 16), tf.int32)
    seeds = rng.integers(-(2**31), 2**31, (count, 2), np.int32)

    def changed(seed: tf.Tensor) -> tf.Tensor:
        return tf.add_n([tf.cast(one[0, 0], tf.float32) for one in _flat(augment_record(picture, seed, augmentation))])

    dataset = tf.data.Dataset.from_tensor_slices(seeds).map(changed, tf.data.AUTOTUNE).batch(count)
    times = []
    for _ in range(4):
        start = time.process_time()
        list(dataset)
        times.append((time.process_time() - start) / count)
    return min(times[1:])


def _flat(picture: dict[str, tf.Tensor]) -> list[tf.Tensor]:
    return [picture["image"][..., 0], *([picture["masks"]] if "masks" in picture else [])]


def recipe_cost(recipe: Recipe, count: int) -> tuple[str, float]:
    """Return what a recipe's pictures are, and the processor seconds that one takes; `count` as of `main`."""
    augmentation, specs = dataclasses.replace(recipe.augmentation, paste=None, cut=None), recipe.view.specs()
    size, (*_, channels) = getattr(recipe.view, "whole", 0) or recipe.view.size, specs["image"].shape
    count = max(1, count // 8) if size > 256 else count
    what = f"{type(recipe.view).__name__}, {size} px, {channels} channels"
    return what, cost(augmentation, size, "masks" in specs, count, channels)


def main(count: int, names: Sequence[str] = ()) -> None:
    """Measure with `count` crops and an eighth as many fields, and print.

    Args:
        count: Crops.
        names: Only what is called so, or begins so; empty = all.
    """
    chosen = tuple(names) or ("",)
    print("augmentations: processor ms a crop of 128 px, a field of 512 px with its masks")
    rows = {type(step).__name__ + _detail(step): _always(step) for step in STEPS}
    rows = {"nothing": NO_AUGMENTATION, "flips, turns, rotation": Augmentation(quarter_turns=True)} | rows
    for name, augmentation in rows.items():
        if not name.startswith(chosen):
            continue
        found = [
            cost(augmentation, size, with_masks, max(1, count // (8 if with_masks else 1))) * 1e3
            for size, with_masks in SIZES.items()
        ]
        print(f"{name:<32}" + "".join(f"{one:9.2f}" for one in found), flush=True)
    for name in RECIPES:
        if f"recipe {name}".startswith(chosen):
            what, seconds = recipe_cost(recipe_named(name), count)
            print(f"{'recipe ' + name:<32}{seconds * 1e3:9.2f}  {what}", flush=True)


def _always(step: AnyStep) -> Augmentation:
    return dataclasses.replace(NO_AUGMENTATION, steps=(OneOf(1.0, (step,)),))


def _detail(step: AnyStep) -> str:
    return f" {step.sizes[0]} px" if isinstance(step, MedianBlur) else ""

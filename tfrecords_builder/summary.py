"""What a build tells at its end: counts per class, how many cells the rules reject, and which images are dark."""

import warnings
from collections.abc import Iterable

import numpy as np
import pandas as pd

from hpa_tf import cell_table
from hpa_tf.classes import CLASSES, MITOTIC_SPINDLE
from hpa_tf.errors import HpaWarning
from hpa_tf.imaging import rules
from hpa_tf.imaging.brightness import dark_images
from hpa_tf.records import Manifest
from tfrecords_builder.options import BuildOptions
from tfrecords_builder.plan import Plan
from tfrecords_builder.unit import UnitResult

_MOST_BORDER = 0.5


COLUMNS = (*cell_table.VALUES, "cleaning_value")
"""Columns of the cell table that the summary is made from."""


def show(plan: Plan, results: list[UnitResult], tables: Iterable[pd.DataFrame], manifest: Manifest) -> None:
    """Print the summary; warn where most cells look cut.

    Args:
        plan: The plan.
        results: Of its units.
        tables: Parts of the cell table, with `COLUMNS`.
        manifest: The manifest.
    """
    counts = {
        name: sum(result.counts[name] for result in results) for name in ("found", "border", "outlier", "rejected")
    }
    built = {image_id for result in results for image_id in result.images}
    print(class_counts(plan, built, tables).to_string())
    size, num_shards = sum(shard.num_bytes for shard in manifest.shards), len(manifest.shards)
    failed = len(plan.faults) + sum(len(result.failures) for result in results)
    print(f"{manifest.num_images} images, {manifest.num_cells} cells, {num_shards} shards, {size / 1e6:.1f} MB")
    if failed:
        print(f"{failed} images or rows left out: failures.csv")
    if not counts["found"]:
        warnings.warn("no image holds any cell", HpaWarning, stacklevel=2)
        return
    shares = {name: count / counts["found"] for name, count in counts.items()}
    print(
        f"border value < 1: {shares['border']:.1%} of the cells; outliers: {shares['outlier']:.1%}; "
        f"rejected by cleaning: {shares['rejected']:.1%}"
    )
    if shares["border"] > _MOST_BORDER:
        text = f"{shares['border']:.0%} of the cells have a border value < 1: check the nucleus masks"
        warnings.warn(text, HpaWarning, stacklevel=2)


def class_counts(plan: Plan, built: set[str], tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Return images (of those that were built), cells and clean cells of each class."""
    images, cells, clean_cells = np.zeros((3, len(CLASSES)), np.int64)
    for table in tables:
        labels = cell_table.values(table) > 0.5
        clean = rules.stay_in_training(table["cleaning_value"].to_numpy(), labels[:, MITOTIC_SPINDLE])
        cells += labels.sum(axis=0)
        clean_cells += (labels & clean[:, None]).sum(axis=0)
    for unit in plan.units:
        for image in (one for one in unit.images if one.image_id in built):
            images[list(image.class_ids)] += 1
    counted = {"images": images, "cells": cells, "clean cells": clean_cells}
    return pd.DataFrame(counted, index=pd.Index([f"{k} {name}" for k, name in enumerate(CLASSES)]))


def warn_of_dark_images(options: BuildOptions, plan: Plan, ordered: list[UnitResult], shares: np.ndarray) -> None:
    """Warn of two kinds of brightness, in a folder or between them, such as 12 bits in 16-bit files beside others.

    Args:
        options: Of the build.
        plan: Its plan.
        ordered: The results of the plan's units, in order.
        shares: float64 [N, 4]: the brightness of their images and channels.
    """
    source_of = {image.image_id: image.source for unit in plan.units for image in unit.images}
    names = [image_id for result in ordered for image_id in result.images]
    sources = np.array([source_of[name] for name in names])
    among_all = set(dark_images(names, shares))
    for index, source in enumerate(options.sources):
        own = np.flatnonzero(sources == index)
        dark = dark_images([names[k] for k in own], shares[own])
        why, fix = "in every channel: 12 bits in 16-bit files beside others?", "its --full-scale, such as 4095"
        if dark:
            shown = f"{', '.join(dark[:3])}{', ...' if len(dark) > 3 else ''}"
            text = f"{len(dark)} of {len(own)} images are far darker than the others ({shown}), {why}"
            text += f" Put them into a folder of their own and give {fix}"
        elif own.size and among_all.issuperset(names[k] for k in own):
            text = f"all {len(own)} images are far darker than those of the other folders, {why} Give {fix}"
        else:
            continue
        warnings.warn(f"{source.images}: {text}", HpaWarning, stacklevel=2)

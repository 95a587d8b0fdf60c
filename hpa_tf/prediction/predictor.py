"""Predict in memory: an image in, a table of its cells out. The numbers are those of `predict.py`."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from hpa_tf.classes import CHANNELS, CLASSES, DEFAULT_UM_PER_PX
from hpa_tf.errors import InputError
from hpa_tf.imaging.brightness import brightness
from hpa_tf.imaging.fields import FieldFiles, FieldOfView, check_um_per_px, read_field, to_full_scale, warn_if_blank
from hpa_tf.imaging.image_cells import cells_of
from hpa_tf.imaging.layout import Layout, Project
from hpa_tf.imaging.layout_options import LayoutOptions
from hpa_tf.imaging.segmentation import Masks
from hpa_tf.imaging.segmentation.choosing import make_segmenter
from hpa_tf.imaging.segmentation.label_images import check_cells, check_nuclei
from hpa_tf.imaging.segmentation.nuclei_of_cells import match_to_cells, nuclei_from_blue
from hpa_tf.postprocessing import PostProcessing
from hpa_tf.prediction.finishing import score
from hpa_tf.prediction.inference import predict_fields
from hpa_tf.prediction.members import load_networks, needs_of, usual_postprocessing
from hpa_tf.prediction.options import Options
from hpa_tf.prediction.runtimes import Device
from hpa_tf.prediction.sources import field_cells
from hpa_tf.prediction.trained_on import LightCheck, check_channels, check_scale, check_segmenter, scales_of

_SHAPE = f"pixels [height, width, {len(CHANNELS)}] in the order {', '.join(CHANNELS)}, uint8 or uint16"


class Predictor:
    """A trained network, kept in memory.

    Example:
        >>> predictor = hpa_tf.Predictor("starter")
        >>> table = predictor.predict(image, um_per_px=0.08)  # one row a cell

    Args:
        run: Run folder, or "starter" for the network that comes with hpa_tf.
        tta: Views of each cell, as `predict.py --tta`: "none", "2", "8" or "16".
        batch_size: Cells that the network sees at once.
        postprocessing: Steps from probabilities to scores; None = those of `predict.py`.
        segmenter: What finds cells where no masks are given, as `predict.py --segmenter`: "small" or "classical".

    Raises:
        InputError: There is no such run or segmenter, or the run cannot be used.
    """

    def __init__(
        self,
        run: str = "starter",
        *,
        tta: str = "none",
        batch_size: int = 16,
        postprocessing: PostProcessing | None = None,
        segmenter: Literal["small", "classical"] = "small",
    ):
        Options(run=(str(run),), images="", tta=tta, batch_size=batch_size).check()
        self._tta, self._batch_size = tta, batch_size
        self._segmenter = make_segmenter(segmenter)
        device = Device()
        self._networks = load_networks([str(run)])
        self._postprocessing = postprocessing or usual_postprocessing(self._networks)
        self._runs = [device.run_of(network) for network in self._networks]

    def predict(
        self,
        image: np.ndarray | FieldOfView | str | os.PathLike,
        masks: Masks | np.ndarray | None = None,
        um_per_px: float | None = None,
        *,
        channels: Sequence[str] = (),
        without: str | None = None,
        project: Project | None = None,
        full_scale: int | None = None,
        allow_other_channels: bool = False,
        embeddings: bool = False,
        heat_maps: bool = False,
    ) -> pd.DataFrame:
        """Predict the cells of one field of view.

        Args:
            image: uint8 or uint16 [H, W, 4]: red, green, blue, yellow; a field of view; or the path of a TIFF file that
                holds all channels (images in several files: `imaging.fields.find_fields`, then `read_field`).
            masks: Cell and nucleus masks, or the cell mask alone (int [H, W], 0 = background: nuclei are then found in
                the blue channel). Nuclei may be numbered on their own: each belongs to the cell that holds most of it.
                None: the segmenter finds the cells.
            um_per_px: Micrometres per pixel; by default those of the field of view or of the file, or 0.08.
            channels: Of a file: what each channel is called there, or its number, as `predict.py --channels`:
                ["microtubules=1", "protein=DYE 488", ...].
            without: Channels that are black, or are to be: "yellow", "red" or "red,yellow".
            project: Of a file with planes in depth or time: "max" = the brightest of each pixel.
            full_scale: Of 16-bit counts: the largest that the camera writes, 4095 of 12 bits.
            allow_other_channels: Predict although the network was trained with other channels than `without` leaves.
            embeddings: Add the column `embedding`: float32 [D] of each cell, the features before the last layer.
            heat_maps: Add the columns `heat_map`, float32 [h, w] in 0..1 over the first network's view of the cell (of
                one that sees whole fields: over the cell's tight box, padded to a square), and `heat_class`, the name
                of the class it is for.

        Returns:
            The cell table of `predict.py`, one row a cell: image_id, cell (its number in the mask), 19 scores, the
            measurements and the probabilities `raw: CLASS`. No row where there is no cell.

        Raises:
            InputError: The image or the masks are of another kind or size, or the network answers no numbers.
        """
        field = _field(image, um_per_px, channels, without, project, full_scale)
        is_said = um_per_px is not None or isinstance(image, FieldOfView) or field.um_per_px != DEFAULT_UM_PER_PX
        check_scale(field.um_per_px, scales_of(self._networks), is_said)
        light = LightCheck(self._networks)
        light.add(tuple(brightness(field.pixels).tolist()))
        light.check()
        check_channels([field.without], self._networks, allow_other_channels)
        check_segmenter(self._segmenter.name if masks is None else None, self._networks)
        needs = needs_of(self._networks, heat_maps)
        found_masks = self._segmenter(field) if masks is None else _masks(masks, field)
        cells = field_cells(cells_of(field, found_masks, needs.margin), needs)
        found = next(
            predict_fields(
                [cells],
                self._networks,
                self._runs,
                self._batch_size,
                self._tta,
                embeddings,
                lambda image_id: heat_maps,
            )
        )
        if found.fault is not None:
            raise found.fault
        shares = tuple(network.weight for network in self._networks)
        table = score(cells.table, found.probabilities, shares, self._postprocessing)
        if embeddings:
            table["embedding"] = [] if found.embedding is None else list(found.embedding)
        if heat_maps:
            heat = None if found.cards is None else found.cards.heat
            if heat is None and len(table):
                raise InputError("heat_maps", "a network without maps of its classes", "one with them", "leave it out")
            table["heat_map"] = [] if heat is None else list(heat)
            table["heat_class"] = [] if heat is None else [CLASSES[c] for c in found.cards.heat_class]
        return table


def _field(
    image: np.ndarray | FieldOfView | str | os.PathLike,
    um_per_px: float | None,
    channels: Sequence[str],
    without: str | None,
    project: Project | None,
    full_scale: int | None,
) -> FieldOfView:
    layout = LayoutOptions(None, tuple(channels), without, project).parse()
    if um_per_px is not None:
        check_um_per_px(um_per_px, "um_per_px")
    if isinstance(image, str | os.PathLike):
        return read_field(_stack_at(str(image), layout), um_per_px, full_scale=full_scale)
    if channels or project:
        option = "channels" if channels else "project"
        raise InputError(option, "an image that is in memory", "the path of a file", f"leave {option} out")
    field = image if isinstance(image, FieldOfView) else FieldOfView("image", np.asarray(image))
    pixels = np.asarray(field.pixels)
    if pixels.shape[2:] != (len(CHANNELS),) or not pixels.size or pixels.dtype not in (np.uint8, np.uint16):
        raise InputError("image", f"{pixels.dtype} {list(pixels.shape)}", _SHAPE, _fix_of(pixels))
    check_um_per_px(field.um_per_px, "um_per_px")
    if full_scale is not None:
        pixels = to_full_scale(pixels, full_scale, "image")
    for k, channel in enumerate(CHANNELS if field is not image else ()):  # of a `FieldOfView` its reader has told
        if channel not in layout.without:
            hint = f"; if there is none, say so: without={channel!r}" if channel in ("red", "yellow") else ""
            warn_if_blank(pixels[..., k], channel, "image", hint)
    scale = field.um_per_px if um_per_px is None else um_per_px
    return _blackened(replace(field, pixels=np.ascontiguousarray(pixels), um_per_px=scale), layout)


def _stack_at(path: str, layout: Layout) -> FieldFiles:
    if path.lower().endswith((".tif", ".tiff")) and not os.path.isdir(path):
        return FieldFiles(Path(path).stem.removesuffix(".ome"), {}, (path,), layout)
    found = "a folder" if os.path.isdir(path) else "a file whose name does not end in .tif or .tiff"
    fix = "read images in several files by hpa_tf.imaging.fields: read_field(find_fields(folder)[0])"
    raise InputError(path, found, "a TIFF file that holds all channels", fix)


def _fix_of(pixels: np.ndarray) -> str:
    """Say what makes an array an image."""
    if pixels.ndim != 3 or not pixels.size:
        return "stack the four channels along the last axis"
    if pixels.shape[2] == len(CHANNELS):
        return "give counts: (image * 255).round().astype(np.uint8) of values 0 to 1, image.astype(np.uint16) of counts"
    if pixels.shape[0] == len(CHANNELS):
        return "put the channels last: np.moveaxis(image, 0, -1)"
    return "stack the four channels along the last axis; one that there is not is black and named: without='yellow'"


def _blackened(field: FieldOfView, layout: Layout) -> FieldOfView:
    """Return a field of view whose left-out channels are black."""
    if not layout.without:
        return field
    kept = np.array([channel not in layout.without for channel in CHANNELS], field.pixels.dtype)
    without = tuple(channel for channel in CHANNELS if channel in {*field.without, *layout.without})
    return replace(field, pixels=field.pixels * kept, without=without)


def _masks(masks: Masks | np.ndarray, field: FieldOfView) -> Masks:
    size = field.pixels.shape[:2]
    if not isinstance(masks, Masks):
        cell = _label_image(masks, size, "masks")
        check_cells(cell, "masks")
        return Masks(nucleus=nuclei_from_blue(field, cell), cell=cell)
    cell, nucleus = _label_image(masks.cell, size, "masks.cell"), _label_image(masks.nucleus, size, "masks.nucleus")
    check_cells(cell, "masks.cell")
    check_nuclei(nucleus, cell, "masks.nucleus")
    return Masks(nucleus=match_to_cells(nucleus, cell), cell=cell)


def _label_image(mask: np.ndarray, size: tuple[int, int], what: str) -> np.ndarray:
    """Return a mask of an image of that size as int32."""
    mask = np.asarray(mask)
    if mask.shape != size or mask.dtype.kind not in "iub" or (mask.size and mask.min() < 0):
        found = f"{mask.dtype} {list(mask.shape)}"
        expected = f"whole numbers >= 0, {list(size)} as the image"
        raise InputError(what, found, expected, "give one label image for this image")
    if mask.max(initial=0) > np.iinfo(np.int32).max:
        fix = "number the cells anew: skimage.segmentation.relabel_sequential(mask)[0]"
        raise InputError(what, f"the number {mask.max()}", "numbers below 2^31", fix)
    return mask.astype(np.int32, order="C")

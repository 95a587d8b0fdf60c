"""The folder of masks: whose it is, what is done, and masks and overlays written whole.

An image is done when its record in `.segmenting/` is there, which is written last and holds the state of the image's
files; so a run may be killed at any moment, and an image that was replaced is segmented again. Masks that somebody
corrected are never written over.
"""

import hashlib
import json
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
from PIL import Image

from hpa_tf import files
from hpa_tf.errors import InputError
from hpa_tf.identity import check_same
from hpa_tf.imaging import pictures
from hpa_tf.imaging.fields import FieldFiles, FieldOfView
from hpa_tf.imaging.segmentation import Masks
from hpa_tf.imaging.segmentation.masks_on_disk import ABOUT

STATE = ".segmenting"
CELL, NUCLEUS, OVERLAYS = "{ID}_cellmask.png", "{ID}_nucleusmask.png", "overlays"
_MOST_CELLS = 65_535
_OVERLAY_SIZE = 1536
_READERS = 16
"""Records of images that are read at once."""


def claim(out: str, identity: dict[str, Any], has_masks: bool, added: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Write down what decides the masks; refuse a folder whose masks other settings decided.

    Args:
        out: Folder of masks.
        identity: What decides them, as JSON values.
        has_masks: Whether an image is done.
        added: Of `identity`, what earlier versions did not write: folders that lack it are taken to have it.

    Raises:
        InputError: The folder has masks of other settings, or of an unknown origin.
    """
    path, identity = files.join(out, ABOUT), json.loads(json.dumps(identity))
    if not files.exists(path):
        known = [CELL.removeprefix("{ID}"), NUCLEUS.removeprefix("{ID}")]
        names = files.list_shown(out) if files.exists(out) else []
        if foreign := next((name for name in names if name.endswith(tuple(known))), None):
            raise InputError(
                out, f"{foreign}, which this program did not write", "a new folder", "choose another --out"
            )
        files.write_json(path, identity)
        return
    if has_masks:  # else nothing is lost by beginning anew
        check_same(out, {**added, **files.read_json(path)}, identity, "set of masks", "choose another --out")
    files.write_json(path, identity)


def check_records(out: str) -> None:
    """Refuse masks of this program without their records: nobody could tell which of them were corrected.

    Raises:
        InputError: The folder has its masks, and no `.segmenting`.
    """
    if not files.exists(files.join(out, ABOUT)) or files.exists(files.join(out, STATE)):
        return
    if any(name.endswith(CELL.removeprefix("{ID}")) for name in files.list_shown(out)):
        found, expected = f"masks without the folder {STATE}", f"{STATE}, which says which masks are finished"
        raise InputError(out, found, expected, "copy the folder with its hidden files, or choose another --out")


def stamp_of(
    field_files: FieldFiles, stamps: dict[str, tuple[int, str]], own_scale: bool = False, for_all: bool = False
) -> str:
    """Return a digest of the names, sizes and times of a field's files.

    Args:
        field_files: The field.
        stamps: `files.list_stamps` of its folder.
        own_scale: Its scale is what its files say.
        for_all: The networks see all images at the default's share of their size nevertheless (`--scale`).
    """
    state = [[name, *stamps.get(name, (0, ""))] for name in field_files.names]
    if own_scale and field_files.says_scale():
        state += [["the scale of its files"], *([["shrunk as all"]] if for_all else [])]
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()[:32]


def done_images(out: str) -> tuple[dict[str, str], set[str]]:
    """Return the stamp of each image whose masks are there, and those whose masks were changed since.

    An image whose masks have other sizes than when they were written is done, and changed, where they are whole files;
    where one is damaged or missing, it is not done.
    """
    folder = files.join(out, STATE)
    if not files.exists(folder):
        return {}, set()
    there = files.list_stamps(out)
    found, changed = {}, set()
    names = [name for name in files.list_shown(folder) if name.endswith(".json")]
    with ThreadPoolExecutor(_READERS) as pool:  # an object store takes .1 s for each
        records = list(pool.map(lambda name: files.read_json(files.join(folder, name)), names))
    for name, record in zip(names, records, strict=True):
        others = [mask for mask, size in record["sizes"].items() if there.get(mask, (-1,))[0] != size]
        if all(mask in there and _is_whole(files.join(out, mask)) for mask in others):
            found[name.removesuffix(".json")] = record["stamp"]
            changed |= {name.removesuffix(".json")} if others else set()
    return found, changed


def _is_whole(path: str) -> bool:
    """Tell whether a PNG file is neither cut short nor damaged, whatever is in it."""
    try:
        with warnings.catch_warnings(), files.open_file(path) as stream:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(stream, formats=["PNG"]) as image:
                image.verify()  # of the file alone: nothing is decoded
    except Image.DecompressionBombError:  # a large one, which is not looked into
        return True
    except (OSError, SyntaxError, ValueError):
        return False
    return True


def drawn_images(out: str) -> set[str]:
    """Return the images that have an overlay."""
    folder = files.join(out, OVERLAYS)
    return {name.removesuffix(".png") for name in files.list_shown(folder)} if files.exists(folder) else set()


def forget(out: str, image_id: str) -> None:
    """Take an image's masks away, the record first."""
    masks = (_name(CELL, image_id), _name(NUCLEUS, image_id))
    for name in (files.join(STATE, f"{image_id}.json"), *masks, files.join(OVERLAYS, f"{image_id}.png")):
        files.remove(files.join(out, name))


def write(out: str, image_id: str, masks: Masks, stamp: str) -> int:
    """Write the masks of one image, then its record; return the number of cells.

    Raises:
        InputError: A cell's number has more than 16 bits.
    """
    largest = int(masks.cell.max(initial=0))
    if largest > _MOST_CELLS:
        fix = "cut the image into parts, or check --um-per-px"
        found = f"cells numbered up to {largest}"
        raise InputError(f"image {image_id}", found, f"at most {_MOST_CELLS} (16-bit PNG)", fix)
    num_cells = int(np.count_nonzero(np.unique(masks.cell)))  # numbers may have gaps
    sizes = {}
    for pattern, mask in ((NUCLEUS, masks.nucleus), (CELL, masks.cell)):
        _, data = cv2.imencode(".png", mask.astype(np.uint16))
        files.write_bytes(files.join(out, _name(pattern, image_id)), data.tobytes())
        sizes[_name(pattern, image_id)] = len(data)
    record = {"stamp": stamp, "sizes": sizes, "num_cells": num_cells}
    files.write_json(files.join(out, STATE, f"{image_id}.json"), record)
    return num_cells


def write_overlay(out: str, field: FieldOfView, masks: Masks) -> None:
    """Write the field in colour with the outlines of its cells (white) and nuclei (light blue)."""
    files.make_folder(files.join(out, OVERLAYS))
    picture = pictures.composite(pictures.shrink(field.pixels, _OVERLAY_SIZE))
    for mask, colour in ((masks.nucleus, (120, 200, 255)), (masks.cell, pictures.WHITE)):
        picture = pictures.draw_outlines(picture, pictures.shrink_mask(mask, _OVERLAY_SIZE), colour)
    _, data = cv2.imencode(".png", picture[..., ::-1])
    files.write_bytes(files.join(out, OVERLAYS, f"{field.image_id}.png"), data.tobytes())


def _name(pattern: str, image_id: str) -> str:
    return pattern.replace("{ID}", image_id)

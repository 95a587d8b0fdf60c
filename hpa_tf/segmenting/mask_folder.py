"""The folder of masks: whose it is, what is done, and masks and overlays written whole.

An image is done when its record in `.segmenting/` is there, which is written last and holds the state of the image's
files; so a run may be killed at any moment, and an image that was replaced is segmented again. A mark stands there
while masks are written. Masks that somebody corrected, or that have neither, are never written over.
"""

import contextlib
import hashlib
import json
import warnings
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
from PIL import Image

from hpa_tf import files
from hpa_tf.errors import InputError, counted
from hpa_tf.identity import check_same, differences
from hpa_tf.imaging import pictures
from hpa_tf.imaging.fields import FieldFiles, FieldOfView
from hpa_tf.imaging.segmentation import Masks
from hpa_tf.imaging.segmentation.masks_on_disk import ABOUT

STATE = ".segmenting"
CELL, NUCLEUS, OVERLAYS = "{ID}_cellmask.png", "{ID}_nucleusmask.png", "overlays"
_RECORD, _BEGUN = ".json", ".begun"
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
        fix = "choose another --out; where it is an option, --on-change rebuild makes all anew"
        check_same(out, {**added, **_read_about(path)}, identity, "set of masks", fix)
    files.write_json(path, identity)


def is_of_other_settings(out: str, identity: dict[str, Any], added: Mapping[str, Any]) -> bool:
    """Tell whether other settings decided the masks of a folder; arguments as of `claim`."""
    path = files.join(out, ABOUT)
    before = {**added, **_read_about(path)} if files.exists(path) else identity
    return bool(differences(before, json.loads(json.dumps(identity))))


def check_records(out: str, image_ids: Collection[str]) -> None:
    """Refuse masks of images that have no record: nobody could tell which of them were corrected.

    Args:
        out: Folder of masks.
        image_ids: The images that are to be segmented.

    Raises:
        InputError: The folder has a mask of one of them, and neither a record nor the mark of a run that was killed.
    """
    if not files.exists(files.join(out, ABOUT)):
        return
    masks, folder = set(files.list_shown(out)), files.join(out, STATE)
    known = {name.rpartition(".")[0] for name in files.list_shown(folder)} if files.exists(folder) else set()
    for image_id in image_ids:
        if image_id not in known and (there := masks.intersection(_masks(image_id))):
            found, expected = f"{min(there)} without a record", f"{STATE}, which says which masks are finished"
            fix = f"copy the hidden folder {STATE} too, or move such masks away"
            raise InputError(out, found, expected, fix)


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
    names = [name for name in files.list_shown(folder) if name.endswith(_RECORD)]
    with ThreadPoolExecutor(_READERS) as pool:  # an object store takes .1 s for each
        records = list(pool.map(lambda name: _read_record(out, name.removesuffix(_RECORD)), names))
    for name, record in zip(names, records, strict=True):
        others = [mask for mask, size in record["sizes"].items() if there.get(mask, (-1,))[0] != size]
        if all(mask in there and _is_whole(files.join(out, mask)) for mask in others):
            found[name.removesuffix(_RECORD)] = record["stamp"]
            changed |= {name.removesuffix(_RECORD)} if others else set()
    return found, changed


def changed_among(out: str, image_ids: Collection[str]) -> set[str]:
    """Return those of some done images whose masks have another content than when they were written.

    `done_images` compares sizes alone, of all of them. Records of earlier versions do not say the content.
    """

    def is_changed(image_id: str) -> bool:
        digests = _read_record(out, image_id).get("sha256", {})
        return any(files.sha256(files.join(out, name)) != digest for name, digest in digests.items())

    with ThreadPoolExecutor(_READERS) as pool:
        answers = zip(image_ids, pool.map(is_changed, image_ids), strict=True)
        return {image_id for image_id, changed in answers if changed}


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
    """Take an image's masks away."""
    with _begun(out, image_id):
        for name in (*_masks(image_id), files.join(OVERLAYS, f"{image_id}.png")):
            files.remove(files.join(out, name))


def forget_all(out: str, done: Collection[str], changed: Collection[str]) -> None:
    """Take all masks away, unless somebody corrected some.

    Args:
        out: Folder of masks.
        done: The images whose masks are there.
        changed: Those of them that are known to have other masks than were written.

    Raises:
        InputError: Masks were changed since they were written; all of them stay.
    """
    if corrected := {*changed, *changed_among(out, [image_id for image_id in done if image_id not in changed])}:
        found = f"masks of {counted(len(corrected), 'image')} that were changed since they were written, first those of"
        expected, fix = "none, to make all anew", "move such masks away, or choose another --out"
        raise InputError(out, f"{found} {min(corrected)}", expected, fix)
    with ThreadPoolExecutor(_READERS) as pool:
        list(pool.map(lambda image_id: forget(out, image_id), done))


@contextlib.contextmanager
def _begun(out: str, image_id: str) -> Iterator[None]:
    """Take an image's record away, and mark the image until its masks are whole, or gone; the mark outlasts errors."""
    mark = files.join(out, STATE, f"{image_id}{_BEGUN}")
    files.write_bytes(mark, b"")
    files.remove(_record(out, image_id))
    yield
    files.remove(mark)


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
    sizes, digests = {}, {}
    with _begun(out, image_id):
        for name, mask in zip(_masks(image_id), (masks.nucleus, masks.cell), strict=True):
            data = cv2.imencode(".png", mask.astype(np.uint16))[1].tobytes()
            files.write_bytes(files.join(out, name), data)
            sizes[name], digests[name] = len(data), hashlib.sha256(data).hexdigest()
        record = {"stamp": stamp, "sizes": sizes, "sha256": digests, "num_cells": num_cells}
        files.write_json(_record(out, image_id), record)
    return num_cells


def write_overlay(out: str, field: FieldOfView, masks: Masks) -> None:
    """Write the field in colour with the outlines of its cells (white) and nuclei (light blue)."""
    files.make_folder(files.join(out, OVERLAYS))
    picture = pictures.composite(pictures.shrink(field.pixels, _OVERLAY_SIZE))
    for mask, colour in ((masks.nucleus, (120, 200, 255)), (masks.cell, pictures.WHITE)):
        picture = pictures.draw_outlines(picture, pictures.shrink_mask(mask, _OVERLAY_SIZE), colour)
    _, data = cv2.imencode(".png", picture[..., ::-1])
    files.write_bytes(files.join(out, OVERLAYS, f"{field.image_id}.png"), data.tobytes())


def _read_about(path: str) -> dict[str, Any]:
    value = files.read_json(path)
    if not isinstance(value, dict):
        fix = "restore it, or choose another --out"
        raise InputError(path, "something else", "what decided the masks beside it", fix)
    return value


def _read_record(out: str, image_id: str) -> dict[str, Any]:
    """Read what `write` wrote of an image; only its own two masks may be named."""
    value, masks = files.read_json(_record(out, image_id)), set(_masks(image_id))
    record = value if isinstance(value, dict) else {}
    sizes, digests = record.get("sizes"), record.get("sha256", {})
    is_known = isinstance(sizes, dict) and sizes.keys() == masks and isinstance(digests, dict)
    if not is_known or not digests.keys() <= masks or not isinstance(record.get("stamp"), str):
        fix = "restore it, or move it and the image's masks away: they are made anew"
        raise InputError(_record(out, image_id), "something else", f"the record of the masks of {image_id}", fix)
    return record


def _masks(image_id: str) -> tuple[str, str]:
    return NUCLEUS.replace("{ID}", image_id), CELL.replace("{ID}", image_id)


def _record(out: str, image_id: str) -> str:
    return files.join(out, STATE, f"{image_id}{_RECORD}")

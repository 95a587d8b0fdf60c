"""The result file of each image, and the manifest that a continued prediction must match.

`OUT/parts/{ID}.parquet` holds everything about one image: scores, measurements, each network's probabilities, masks.
It appears whole and last, so an image is either done or not begun. The final files are made from these alone, in the
order of the ids: a prediction that was killed and continued ends with the same bytes.
"""

import contextlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from hpa_tf import checksums, files, folder_lock, heat_map_files, interrupts, submission
from hpa_tf.classes import CLASSES, NEGATIVE, NUM_CLASSES
from hpa_tf.errors import InputError
from hpa_tf.file_names import check_network_name
from hpa_tf.identity import check_kind, check_same, same_place
from hpa_tf.prediction_folder import MANIFEST, OVERLAYS, PARTS, RAW, STAMPS, SUBMISSION

VERSION = 1
MASK, EMBEDDING = "mask", "embedding"
_NO_LONGER = ("segmenter", "segmenter_weights", "max_pixels")
"""Options that earlier versions wrote down. The segmenter's name says all of it: to say a default is to ask for the
same. Which images are refused changes no result."""
_PLACES = ("run", "runs", "images", "data", "masks")
_METADATA, _CHECKSUM = b"hpa_tf.prediction", b"hpa_tf.checksum"


@dataclass(frozen=True)
class Part:
    """One image's results.

    Attributes:
        image_id: The image.
        height: px.
        width: px.
        table: A cell table of final scores with the measurements, the values of the rules, and `raw: CLASS`.
        probabilities: float32 [M, N, 19] of each network; Negative is NaN where it does not answer it.
        mask_texts: Each cell's mask as the submission writes it.
        embedding: float32 [N, D], or None.
    """

    image_id: str
    height: int
    width: int
    table: pd.DataFrame
    probabilities: np.ndarray
    mask_texts: tuple[str, ...]
    embedding: np.ndarray | None


def _column(network: int, class_id: int) -> str:
    return f"network {network}: {CLASSES[class_id]}"


def part_path(out: str, image_id: str) -> str:
    """Return the path of an image's result file."""
    return files.join(out, PARTS, f"{image_id}.parquet")


def write_part(out: str, part: Part) -> None:
    """Write an image's result file, whole."""
    columns = {
        _column(i, c): network[:, c]
        for i, network in enumerate(part.probabilities)
        for c in range(NUM_CLASSES)
        if c != NEGATIVE or not np.isnan(network[:, c]).all()
    }
    table = pd.concat([part.table, pd.DataFrame(columns)], axis=1)
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    arrow = arrow.append_column(MASK, pa.array(part.mask_texts, pa.string()))
    if part.embedding is not None:
        arrow = arrow.append_column(EMBEDDING, pa.array(list(part.embedding), pa.list_(pa.float32())))
    facts = {"height": part.height, "width": part.width, "networks": len(part.probabilities)}
    ours = {_METADATA: json.dumps(facts).encode(), _CHECKSUM: checksums.PLACE.encode()}
    stream = io.BytesIO()
    pq.write_table(arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), **ours}), stream, compression="zstd")
    files.write_bytes(part_path(out, part.image_id), checksums.seal(stream.getvalue()))


def read_part(out: str, image_id: str) -> Part:
    """Read an image's result file.

    Raises:
        InputError: It is missing or damaged.
    """
    path, fix = part_path(out, image_id), "remove it and run the same prediction again"
    try:
        data = files.read_bytes(path)
        checksums.check_seal(data, path, "a result file", fix)
        return _part(image_id, pq.read_table(io.BytesIO(data), page_checksum_verification=True))
    except InputError:
        raise
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise InputError(path, f"a result that cannot be read ({error})", "a result file", fix) from error


def _part(image_id: str, arrow: pa.Table) -> Part:
    facts = json.loads(arrow.schema.metadata[_METADATA])
    probabilities = np.full((facts["networks"], len(arrow), NUM_CLASSES), np.nan, np.float32)
    own = []
    for network, class_id in np.ndindex(facts["networks"], NUM_CLASSES):
        name = _column(network, class_id)
        if class_id != NEGATIVE or name in arrow.column_names:
            probabilities[network, :, class_id] = arrow[name].to_numpy()
            own.append(name)
    has_embedding = EMBEDDING in arrow.column_names
    embedding = np.stack(arrow[EMBEDDING].to_numpy()) if has_embedding and len(arrow) else None
    masks = tuple(arrow[MASK].to_pylist())
    hidden = [MASK, *([EMBEDDING] if has_embedding else []), *own]
    table = arrow.drop_columns(hidden).to_pandas()
    return Part(image_id, facts["height"], facts["width"], table, probabilities, masks, embedding)


def done_images(out: str) -> set[str]:
    """Return the images that have a result file."""
    folder = files.join(out, PARTS)
    ending = ".parquet"
    names = files.list_names(folder) if files.exists(folder) else ()  # an object store has no empty folders
    return {name.removesuffix(ending) for name in names if name.endswith(ending)}


def listed_images(out: str) -> list[str]:
    """Return the images of a finished prediction, in their order.

    They are those of its submission: results of images that were taken away since they were predicted stay beside.

    Raises:
        InputError: The submission is missing or damaged, or a result is missing: the prediction was begun again.
    """
    listed = [row.image_id for row in submission.read(files.join(out, SUBMISSION))]
    if missing := sorted(set(listed) - done_images(out)):
        found = f"no result of {len(missing)} of its {len(listed)} images, such as {missing[0]}"
        raise InputError(out, found, "a finished prediction", "run its command again: it continues")
    return listed


def drop_changed(out: str, stamps: Mapping[str, str]) -> int:
    """Remove the results of images whose files changed since they were predicted, and write down their state now.

    Results of an image whose state was not written down (by an earlier version) count as changed.

    Args:
        out: Folder of the results.
        stamps: State of each image's files, see `sources.Source`.

    Returns:
        The number of images whose results were removed.

    Raises:
        InputError: The record of the states is damaged.
    """
    path = files.join(out, STAMPS)
    before = read_stamps(out)
    changed = [image_id for image_id in done_images(out) & stamps.keys() if before.get(image_id) != stamps[image_id]]
    for image_id in changed:
        files.remove(part_path(out, image_id))  # first: what has no result file is not done
        files.remove(files.join(out, OVERLAYS, f"{image_id}.png"))
        files.remove(files.join(out, PARTS, f"{image_id}.cards.npz"))
        files.remove(heat_map_files.path_of(out, image_id))
    if (now := {**before, **stamps}) != before:
        files.write_json(path, now)
    return len(changed)


def read_stamps(out: str | os.PathLike) -> dict[str, str]:
    """Return the state of the files that each image was predicted from; empty where nothing was written down.

    Raises:
        InputError: The record is damaged.
    """
    path = files.join(out, STAMPS)
    fix = "remove it and run the same prediction again: it predicts all images anew"
    try:
        found = files.read_json(path) if files.exists(path) else {}
    except InputError as error:
        raise InputError(path, error.found, "the states of the images' files", fix) from error
    if not isinstance(found, dict):
        raise InputError(path, f"a {type(found).__name__}", "the states of the images' files", fix)
    return found


@dataclass(frozen=True)
class Begun:
    """Where a prediction goes on: images that have a result, and how many lost theirs because their files changed."""

    done: set[str]
    num_changed: int


@contextlib.contextmanager
def begun(out: str, request: dict[str, Any], stamps: Mapping[str, str]) -> Iterator[Begun]:
    """Begin a prediction, or go on with the one in `out`; arguments and errors as of `start` and `drop_changed`.

    Where the block fails on bad input before any image has its result, the folder is free for other options again:
    nothing is lost, and the error was most likely about the options.
    """
    start(out, request)
    interrupts.keeps(f"finished images are kept in {out}; the same command continues")
    try:
        num_changed, done = drop_changed(out, stamps), done_images(out)
        if stamps.keys() - done:
            reopen(out)
        yield Begun(done, num_changed)
    except InputError:
        if not done_images(out):
            files.remove(files.join(out, MANIFEST))
        raise


@contextlib.contextmanager
def owned(out: str, request: dict[str, Any], tidy: bool = True) -> Iterator[None]:
    """Own the folder of a prediction inside the block; it is made if it is not there.

    Args:
        out: Folder of the results.
        request: Everything that decides the results.
        tidy: Remove at the end what processes of this machine that are gone left half written.

    Raises:
        InputError: Another command writes to it, it holds something else, or it cannot be written.
    """
    _make_folders(out, request)
    with folder_lock.locked(out):
        try:
            yield
        finally:
            for folder in (PARTS, RAW, OVERLAYS) if tidy else ():
                folder_lock.remove_unfinished(files.join(out, folder))


def _make_folders(out: str, request: dict[str, Any]) -> None:
    check_kind(out, MANIFEST)
    _check_names(request, out)
    for folder in (out, files.join(out, PARTS), files.join(out, OVERLAYS), files.join(out, RAW)):
        files.make_folder(folder)


def start(out: str, request: dict[str, Any]) -> None:
    """Begin a prediction in `out`, or check that the one there asked for the same.

    Args:
        out: Folder of the results; made if it is not there.
        request: Everything that decides the results.

    Raises:
        InputError: `out` holds a prediction under other options: names each difference; or it cannot be written.
    """
    _make_folders(out, request)
    request = json.loads(json.dumps({"version": VERSION, **request}))
    path = files.join(out, MANIFEST)
    if not files.exists(path):
        files.remove(files.join(out, STAMPS))  # what results without a request are of is not known: see `drop_changed`
        files.write_json(path, {"request": request, "state": "running"})
        return
    before = comparable(_manifest(out)["request"])
    check_same(path, before, comparable(request), "prediction", "give the same options, or another --out")


def comparable(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request in which equal places are spelled alike: `images` is `./images/`.

    The segmenter that reads masks is left out: it is named by their folder and patterns, which are options.
    """
    options = request["options"]
    places = {name: _spelled(options[name]) for name in _PLACES if name in options}
    segmenter = None if options.get("masks") else request.get("segmenter")
    return {**request, "options": {**options, **places}, "segmenter": segmenter}


def _spelled(place: Any) -> Any:
    if isinstance(place, list):
        return [_spelled(one) for one in place]
    return same_place(place) if isinstance(place, str) else place


def end(out: str, summary: dict[str, Any]) -> None:
    """Write down in the manifest that the final files are there."""
    path = files.join(out, MANIFEST)
    files.write_json(path, {**_manifest(out), "state": "done", "summary": summary})


def reopen(out: str) -> None:
    """Write down in the manifest of a finished prediction that it goes on: its final files lack images."""
    found = _manifest(out)
    if found.pop("summary", None) is not None:
        files.write_json(files.join(out, MANIFEST), {**found, "state": "running"})


def request_of(out: str | os.PathLike) -> dict[str, Any]:
    """Return what the prediction in a folder was asked for.

    Raises:
        InputError: There is no prediction, or another version wrote it.
    """
    path = files.join(out, MANIFEST)
    request = _manifest(out)["request"]
    if request.get("version") != VERSION:
        fix = "predict again into another --out"
        raise InputError(path, f"version {request.get('version')}", f"a prediction of version {VERSION}", fix)
    _check_names(request, path)
    return request


def _check_names(request: Mapping[str, Any], where: str) -> None:
    """Refuse networks whose names cannot be those of files."""
    for network in request["networks"]:
        check_network_name(network.get("name"), where)


def summary_of(out: str | os.PathLike) -> dict[str, int] | None:
    """Return the counts of a finished prediction, or None for one that has not come to its end."""
    return _manifest(out).get("summary")


def _manifest(out: str | os.PathLike) -> dict[str, Any]:
    """Read the manifest of a prediction.

    Raises:
        InputError: There is none, or it is damaged.
    """
    path = files.join(out, MANIFEST)
    if not files.exists(path):
        raise InputError(out, f"no {MANIFEST}", "a folder that predict.py wrote", "check the path, or predict first")
    try:
        found = json.loads(files.read_bytes(path))
        options, networks = found["request"]["options"], found["request"]["networks"]
        if not isinstance(options, dict) or not all(isinstance(network, dict) for network in networks):
            raise TypeError("another kind of request")
        for name in _NO_LONGER:
            options.pop(name, None)
        return found
    except (OSError, ValueError, KeyError, TypeError) as error:
        fix = "remove it and run the prediction again: it predicts all images anew"
        raise InputError(path, f"a damaged file ({error})", "what the prediction was asked", fix) from error

"""A folder of results: the manifest that a continued prediction must match, and which images are done.

The final files are made from the images' result files alone, in the order of the ids: a prediction that was killed and
continued ends with the same bytes.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hpa_tf import files, folder_lock, heat_map_files, interrupts, submission
from hpa_tf.errors import InputError
from hpa_tf.file_names import check_network_name
from hpa_tf.identity import check_kind, check_same, same_place
from hpa_tf.prediction.result_files import done_images, part_path
from hpa_tf.prediction_folder import MANIFEST, OVERLAYS, PARTS, RAW, STAMPS, SUBMISSION
from hpa_tf.run_folder import is_starter

VERSION = 1
_NO_LONGER = ("segmenter", "segmenter_weights", "max_pixels")
"""Options that earlier versions wrote down. The segmenter's name says all of it: to say a default is to ask for the
same. Which images are refused changes no result."""
_PLACES = ("run", "runs", "images", "data", "masks", "image_labels")


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
    below = [PARTS, OVERLAYS, RAW] + ([heat_map_files.FOLDER] if request["options"].get("heat_maps") else [])
    for folder in (out, *(files.join(out, name) for name in below)):
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
    """Return a request in which equal places are spelled alike, as earlier versions did not: `images` is `./images/`.

    The segmenter that reads masks is left out: it is named by their folder and patterns, which are options.
    """
    options = in_full(request["options"])
    segmenter = None if options.get("masks") else request.get("segmenter")
    return {**request, "options": options, "segmenter": segmenter}


def anywhere(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request in which each place says only whether it is given: machines mount a folder at several ones."""
    given = {name: bool(request["options"][name]) for name in _PLACES if name in request["options"]}
    return {**request, "options": {**request["options"], **given}}


def in_full(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options whose places are absolute, so that they mean the same in every working folder.

    Addresses and the starter network stay; `runs` is none without a system.
    """
    places = {name: _spelled(name, options[name]) for name in _PLACES if name in options}
    if "runs" in places and not options.get("system"):
        places["runs"] = None
    return {**options, **places}


def _spelled(name: str, place: Any) -> Any:
    if isinstance(place, (list, tuple)):
        return [_spelled(name, one) for one in place]
    stays = not isinstance(place, str) or (name == "run" and is_starter(place))
    return place if stays else same_place(place)


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

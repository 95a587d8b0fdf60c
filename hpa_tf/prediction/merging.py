"""Join predictions of parts: `python -m hpa_tf.prediction.merge --out DIR PART [PART ...]`.

Each part was made by `predict.py --shard i/n` with otherwise equal options; all n must be there. The places of images,
masks and runs may differ, as on machines that mount one disk at several places: networks are compared by their content.
"""

import dataclasses
import io
import shutil
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import pandas as pd
import tyro

from hpa_tf import files, heat_map_files, interrupts, reporting
from hpa_tf.errors import HpaError, HpaWarning, InputError, counted, printable
from hpa_tf.identity import differences
from hpa_tf.image_labels import read_image_labels
from hpa_tf.parts import parse_part
from hpa_tf.prediction import results
from hpa_tf.prediction.command import EXIT_FAILURES, fail
from hpa_tf.prediction.outputs import check_anndata, write_final
from hpa_tf.prediction.stages import FAILURE_COLUMNS, FAILURES
from hpa_tf.prediction_folder import OVERLAYS, PARTS


@dataclasses.dataclass(frozen=True)
class MergeOptions:
    """Join the predictions of all parts of a folder into one."""

    parts: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Folders that `predict.py --shard i/n` wrote."""
    out: str
    """Folder for the whole."""
    image_labels: str | None = None
    """Where the table lies now that the parts were predicted with; default: where it lay then."""


def merge(options: MergeOptions) -> int:
    """Copy the parts' results together and write the final files; return the number of images.

    Raises:
        InputError: Parts are missing, double, unfinished or differ in more than --shard; or two hold one image; or a
            table of theirs cannot be read.
    """
    if not options.parts:
        raise InputError("PART", "no folder", "those of all parts", "name them: --out DIR PART [PART ...]")
    requests = [_finished_request(folder) for folder in options.parts]
    whole = _with_image_labels(_common_request(options.parts, requests), options.image_labels)
    failures = [_failures_of(folder) for folder in options.parts if results.summary_of(folder)["num_failures"]]
    if whole["options"]["anndata"]:
        check_anndata(options.out)
    with results.owned(options.out, whole):
        num_images = _join(options, whole, failures)
    interrupts.keeps(f"everything is written to {options.out}")
    return num_images


def _join(options: MergeOptions, whole: dict[str, Any], failures: Sequence[pd.DataFrame]) -> int:
    """Write the whole, whose request is given; return the number of images.

    Args:
        options: What is asked.
        whole: Request of the whole.
        failures: Images that parts have skipped.
    """
    results.start(options.out, whole)
    interrupts.keeps(f"{options.out} is not whole; the same command makes it so, the parts are untouched")
    origin: dict[str, str] = {}
    for folder in options.parts:
        for image_id in results.listed_images(folder):
            if origin.setdefault(image_id, folder) != folder:
                found = f"image {image_id} in {origin[image_id]} too"
                raise InputError(folder, found, "each image in one part", "predict the parts again")
    stamps = {image_id: stamp for folder in options.parts for image_id, stamp in results.read_stamps(folder).items()}
    results.drop_changed(options.out, stamps)
    results.reopen(options.out)
    for image_id, folder in sorted(origin.items()):
        _copy(folder, options.out, image_id)
    path = files.join(options.out, FAILURES)
    if failures:
        reporting.write_csv(pd.concat(failures, ignore_index=True), path, marked=True)
    else:
        files.remove(path)
    write_final(options.out, sorted(origin), sum(map(len, failures)))
    return len(origin)


def _failures_of(folder: str) -> pd.DataFrame:
    """Return the table of the images that a part has skipped.

    Raises:
        InputError: It is missing, or was changed by another program.
    """
    path, fix = files.join(folder, FAILURES), "run the part's command again: it writes the table anew"
    try:
        table = pd.read_csv(io.BytesIO(files.read_bytes(path)), dtype=str, keep_default_na=False)
    except FileNotFoundError as error:
        raise InputError(path, "no such file", "the images that the part skipped", fix) from error
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or no table
        found = f"a table that cannot be read ({error})"
        raise InputError(path, found, "the images that the part skipped", fix) from error
    if tuple(table) != FAILURE_COLUMNS:
        expected = f"the columns {', '.join(FAILURE_COLUMNS)}"
        raise InputError(path, f"the columns {', '.join(table)}"[:200], expected, fix)
    return table


def _with_image_labels(whole: dict[str, Any], place: str | None) -> dict[str, Any]:
    """Return the request of the whole with the place of its table of labels, which can be read.

    Args:
        whole: Request of the whole.
        place: Where the table lies; None = where the request says.

    Raises:
        InputError: It is not there, damaged, or the parts were predicted without one.
    """
    before = whole["options"].get("image_labels")
    if before is None:
        if place is not None:
            found, fix = f"{place} beside parts that were predicted without it", "leave it out, or predict with it"
            raise InputError("--image-labels", found, "parts that were predicted with it", fix)
        return whole
    if place is None and not files.exists(before):
        fix = "--image-labels TABLE says where it lies now"
        raise InputError(before, "no such file", "the table of labels that the parts were predicted with", fix)
    asked = results.in_full({**whole["options"], "image_labels": place or before})
    read_image_labels(asked["image_labels"])
    return {**whole, "options": asked}


def _finished_request(folder: str) -> dict[str, Any]:
    request = results.request_of(folder)
    if results.summary_of(folder) is None:
        raise InputError(folder, "an unfinished prediction", "a finished one", "run its command again: it continues")
    return request


def _common_request(folders: Sequence[str], requests: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the request of the whole."""
    shards = [request["options"].pop("shard") for request in requests]
    first, *others = map(results.comparable, requests)
    for folder, other in zip(folders[1:], others, strict=True):
        if lines := differences(results.anywhere(first), results.anywhere(other)):
            raise InputError(folder, f"other options than {folders[0]}: {'; '.join(lines)}", "equal ones", "predict it")
        if lines := differences(first, other):
            text = f"{folder}: predicted from other places than {folders[0]}, which are taken for the same"
            warnings.warn(f"{text}: {'; '.join(lines)}", HpaWarning, stacklevel=3)
    places = [parse_part(shard) for shard in shards]
    counts = {count for _, count in places}
    missing = sorted(set(range(max(counts))) - {index for index, _ in places})
    if len(counts) > 1 or missing or len(places) != max(counts):
        found = f"the parts {', '.join(str(shard) for shard in shards)}"
        expected = f"each of 0/{max(counts)} to {max(counts) - 1}/{max(counts)} once"
        options = " and ".join(f"--shard {index}/{max(counts)}" for index in missing)
        raise InputError("parts", found, expected, f"predict also with {options}" if missing else "leave some out")
    return {**requests[0], "options": {**requests[0]["options"], "shard": None}}


def _copy(source: str, target: str, image_id: str) -> None:
    """Copy an image's files; the result file, which marks it as done, last."""
    for folder, name in (
        (OVERLAYS, f"{image_id}.png"),
        (PARTS, f"{image_id}.cards.npz"),
        (heat_map_files.FOLDER, f"{image_id}.npz"),
        (PARTS, f"{image_id}.parquet"),
    ):
        path = files.join(source, folder, name)
        if files.exists(path):
            files.make_folder(files.join(target, folder))
            with files.open_file(path) as reading, files.atomic_writer(files.join(target, folder, name)) as writing:
                shutil.copyfileobj(reading, writing)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    try:
        options = tyro.cli(MergeOptions, args=files.expand_home(arguments), prog="python -m hpa_tf.prediction.merge")
        with files.full_disk_explained(options.out):
            print(printable(f"{merge(options)} images in {options.out}"))
    except HpaError as error:
        return fail("merge", error)
    if count := results.summary_of(options.out)["num_failures"]:
        print(printable(f"{counted(count, 'image')} skipped: {files.join(options.out, FAILURES)}"))
        return EXIT_FAILURES
    return 0

"""Join predictions of parts: `python -m hpa_tf.prediction.merge --out DIR PART [PART ...]`.

Each part was made by `predict.py --shard i/n` with otherwise equal options; all n must be there. The places of images,
masks and runs may differ, as on machines that mount one disk at several places: networks are compared by their content.
"""

import dataclasses
import shutil
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import pandas as pd
import tyro

from hpa_tf import files, heat_map_files, interrupts, reporting
from hpa_tf.errors import HpaError, HpaWarning, InputError, counted
from hpa_tf.identity import differences
from hpa_tf.parts import parse_part
from hpa_tf.prediction import results
from hpa_tf.prediction.command import EXIT_FAILURES, fail
from hpa_tf.prediction.outputs import check_anndata, write_final
from hpa_tf.prediction.stages import FAILURES
from hpa_tf.prediction_folder import OVERLAYS, PARTS


@dataclasses.dataclass(frozen=True)
class MergeOptions:
    """Join the predictions of all parts of a folder into one."""

    parts: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Folders that `predict.py --shard i/n` wrote."""
    out: str
    """Folder for the whole."""


def merge(options: MergeOptions) -> int:
    """Copy the parts' results together and write the final files; return the number of images.

    Raises:
        InputError: Parts are missing, double, unfinished or differ in more than --shard; or two hold one image.
    """
    requests = [_finished_request(folder) for folder in options.parts]
    whole = _common_request(options.parts, requests)
    if whole["options"]["anndata"]:
        check_anndata(options.out)
    with results.owned(options.out, whole):
        num_images = _join(options, whole)
    interrupts.keeps(f"everything is written to {options.out}")
    return num_images


def _join(options: MergeOptions, whole: dict[str, Any]) -> int:
    """Write the whole, whose request is given; return the number of images."""
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
    write_final(options.out, sorted(origin), _join_failures(options))
    return len(origin)


def _join_failures(options: MergeOptions) -> int:
    """Write the images that the parts have skipped into one table, if any; return how many there are."""
    path = files.join(options.out, FAILURES)
    with_failures = [folder for folder in options.parts if results.summary_of(folder)["num_failures"]]
    tables = [pd.read_csv(files.join(folder, FAILURES), dtype=str, keep_default_na=False) for folder in with_failures]
    if tables:
        reporting.write_csv(pd.concat(tables, ignore_index=True), path, marked=True)
    else:
        files.remove(path)
    return sum(map(len, tables))


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
            print(f"{merge(options)} images in {options.out}")
    except HpaError as error:
        return fail("merge", error)
    if count := results.summary_of(options.out)["num_failures"]:
        print(f"{counted(count, 'image')} skipped: {files.join(options.out, FAILURES)}")
        return EXIT_FAILURES
    return 0

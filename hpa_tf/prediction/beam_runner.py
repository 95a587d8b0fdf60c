"""The same stages on Apache Beam: a cluster's workers predict the groups of images that this machine would.

Pixels never travel: the names of a group's images go to a worker, and each image's results appear in the folder, as
they would from a local run; either continues the other. Each worker needs the runs, images, masks and the folder of
the results under the paths that the command names.
"""

import functools
import math
import warnings
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace

import cv2

from hpa_tf import beam, files
from hpa_tf.devices import memory_explained
from hpa_tf.errors import HpaWarning, InputError
from hpa_tf.prediction.finishing import Finisher
from hpa_tf.prediction.members import Network
from hpa_tf.prediction.result_files import done_images
from hpa_tf.prediction.runtimes import Device, NetworkRequest
from hpa_tf.prediction.sources import FieldCells, Source, Task
from hpa_tf.prediction.stages import SMALLER, How, Outcome, Stages, groups_to_do
from hpa_tf.prediction.trained_on import LightCheck
from hpa_tf.prediction.workers import Inline
from hpa_tf.prediction_folder import PARTS
from hpa_tf.worker_processes import num_cores


@dataclass(frozen=True)
class Group:
    """Images that share batches, as in a local run.

    Attributes:
        start: Index of the first among all images.
        image_ids: Their names.
        tasks: What reading each needs to know.
        done: Those that have a result; they are in the batches all the same.
        num_cards: The first so many are in the report.
    """

    start: int
    image_ids: tuple[str, ...]
    tasks: tuple[Task, ...]
    done: frozenset[str]
    num_cards: int


@dataclass(frozen=True)
class Runner:
    """Where the groups are predicted.

    Attributes:
        name: Of the Beam runner.
        options: Its command line.
        num_workers: Its processes; 0 = one a core of this machine.
    """

    name: str
    options: tuple[str, ...] = ()
    num_workers: int = 0


@dataclass(frozen=True)
class Work:
    """What every worker is given: it predicts a group as this machine would.

    Attributes:
        out: Folder of the results.
        networks: What predicts; opened once a worker.
        how: How images go through.
        load: Reads an image, see `Source`.
        finisher: Writes each image's results.
    """

    out: str
    networks: NetworkRequest
    how: How
    load: Callable[[Task], FieldCells]
    finisher: Finisher


def run_on_beam(work: Work, source: Source, done: Set[str], light: LightCheck, runner: Runner) -> Outcome:
    """Predict the images of a source that have no result yet.

    Args:
        work: What a worker needs beside the names of its images.
        source: The images.
        done: Those that have a result.
        light: Told of each image's brightness.
        runner: Where.

    Raises:
        InputError: Beam is missing or its options cannot be used, a worker failed, or an image was lost.
    """
    groups = [_group(indices, work.how, source, done) for indices in groups_to_do(source.image_ids, done)]
    for group in groups:
        files.remove(_note(work.out, group))
    if groups:
        num_workers = runner.num_workers or num_cores()
        beam.run_each(predict_group, groups, (work,), runner.name, runner.options, num_workers)
    outcome = _gather(work.out, groups, runner.name)
    for one in outcome.brightness:
        light.add(one)
    light.check()
    return outcome


def _group(indices: range, how: How, source: Source, done: Set[str]) -> Group:
    ids = source.image_ids[indices.start : indices.stop]
    num_cards = max(0, how.num_cards - indices.start)
    return Group(indices.start, ids, tuple(map(source.task, indices)), frozenset(done.intersection(ids)), num_cards)


def _note(out: str, group: Group) -> str:
    """Return the path of what a worker says about a group: it is there once the group is done."""
    return files.join(out, PARTS, f"group-{group.start:08d}.json")


@memory_explained(SMALLER)  # in the worker: what comes back from it is a text
def predict_group(group: Group, work: Work) -> None:
    """Predict one group in a worker; its note is written last.

    Raises:
        InputError: A batch does not fit into memory, or an image cannot be used and failures are not skipped.
    """
    cv2.setNumThreads(1)
    device, networks = _open_networks(work.networks)
    source = Source(group.image_ids, group.tasks.__getitem__, work.load)
    how = replace(work.how, num_cards=group.num_cards)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", HpaWarning)
        stages = Stages(how, source, group.done, Inline(), work.finisher, LightCheck([]), show=False)
        outcome = stages.run(networks, device)
    note = {
        "num_cells": outcome.num_cells,
        "num_lowered": outcome.num_lowered,
        "failures": outcome.failures,
        "brightness": [one and [None if math.isnan(share) else share for share in one] for one in outcome.brightness],
        "warnings": [str(warning.message) for warning in caught if issubclass(warning.category, HpaWarning)],
    }
    files.write_json(_note(work.out, group), note)


@functools.lru_cache(maxsize=1)
def _open_networks(request: NetworkRequest) -> tuple[Device, list[Network]]:
    """Load the networks once a worker."""
    return request.open()[:2]


def _gather(out: str, groups: Sequence[Group], runner: str) -> Outcome:
    """Add up what the workers noted, after a check that every image has its result or its failure.

    Raises:
        InputError: The runner lost an image.
    """
    outcome, done = Outcome(), done_images(out)
    for group in groups:
        note = files.read_json(_note(out, group)) if files.exists(_note(out, group)) else {}
        failures = [tuple(failure) for failure in note.get("failures", ())]
        if lost := set(group.image_ids) - done - {image_id for image_id, _ in failures}:
            found = f"{len(lost)} images without result though the pipeline ended, such as {min(lost)}"
            fix = "run the same command again: it continues"
            raise InputError(runner, found, f"a result of each of {len(group.image_ids)} images", fix)
        for text in note.get("warnings", ()):
            warnings.warn(text, HpaWarning, stacklevel=2)
        outcome.num_predicted += len(group.image_ids) - len(group.done) - len(failures)
        outcome.num_cells += note.get("num_cells", 0)
        outcome.num_lowered += note.get("num_lowered", 0)
        outcome.failures += failures
        shares = note.get("brightness", ())
        outcome.brightness += [one and tuple(math.nan if share is None else share for share in one) for one in shares]
    for group in groups:
        files.remove(_note(out, group))
    return outcome

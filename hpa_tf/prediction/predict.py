"""The whole prediction: check what is asked, run the stages side by side, write the final files."""

import collections
import dataclasses
import warnings
from collections.abc import Iterator
from typing import Any

import tqdm

from hpa_tf import files, reporting
from hpa_tf.errors import HpaWarning, InputError
from hpa_tf.imaging.segmentation import Segmenter
from hpa_tf.imaging.segmentation.classical import ClassicalSegmenter
from hpa_tf.imaging.segmentation.masks_on_disk import MasksOnDisk
from hpa_tf.postprocessing import FINAL_2, PostProcessing
from hpa_tf.prediction import outputs, report, results
from hpa_tf.prediction.finishing import Finisher
from hpa_tf.prediction.options import Options, parse_part
from hpa_tf.prediction.sources import FieldCells, ImageReader, Source, image_source, shard_source
from hpa_tf.prediction.workers import Workers, result

FAILURES = "failures.csv"
_PICTURE_SIZE = 1024
_NOT_IN_REQUEST = ("out", "on_error", "failures_ok", "workers", "postprocessing")
_MANY_LOWERED = 0.5


@dataclasses.dataclass
class Outcome:
    """What a prediction did.

    Attributes:
        num_images: Images with results, those of an earlier call included.
        num_predicted: Images predicted by this call.
        num_cells: Their cells.
        num_lowered: Their cells with a value below 1.
        failures: (image id, error) of the skipped images.
        seconds: CPU stages, s.
    """

    num_images: int = 0
    num_predicted: int = 0
    num_cells: int = 0
    num_lowered: int = 0
    failures: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    seconds: collections.Counter = dataclasses.field(default_factory=collections.Counter)


@dataclasses.dataclass(frozen=True)
class Failed:
    """An image that cannot be used, and why."""

    image_id: str
    error: InputError


def predict(options: Options) -> Outcome:
    """Predict what the options ask for; images that are done already are not predicted again.

    Raises:
        InputError: Bad options, runs or images, or a prediction under other options in the same folder.
    """
    from hpa_tf.prediction import members  # TensorFlow: not in the workers

    system, runs = members.find_system(options.system, options.runs) if options.system else (None, options.run)
    weights = [member.weight for member in system.members] if system else None
    postprocessing = options.postprocessing or (system.postprocessing if system else FINAL_2)
    with Workers(options.workers) as workers:
        networks = members.load_networks(runs, weights)
        source = make_source(options, networks)
        results.start(options.out, _request(options, networks, source, postprocessing))
        finisher = Finisher(
            options.out,
            tuple(network.weight for network in networks),
            postprocessing,
            options.overlays,
            options.top_k,
        )
        outcome = _predict_all(options, workers, networks, source, finisher)
    if outcome.failures and options.on_error == "fail":
        raise InputError(*outcome.failures[0])
    failed = {image_id for image_id, _ in outcome.failures}
    image_ids = [image_id for image_id in source.image_ids if image_id not in failed]
    outputs.write_outputs(options.out, image_ids, [network.name for network in networks])
    if options.report_images:
        title = options.system or " + ".join(network.name for network in networks)
        report.write_report(options.out, image_ids, options.report_images, title)
    outcome.num_images = len(image_ids)
    results.end(options.out, {"num_images": len(image_ids), "num_failures": len(failed)})
    return outcome


def make_source(options: Options, networks: list) -> Source:
    """Return the images or shards that are asked for.

    Raises:
        InputError: There are none.
    """
    part = parse_part(options.shard)
    picture_size = _PICTURE_SIZE if options.overlays or options.report_images else 0
    if options.data is not None:
        return shard_source(options.data, options.fold, part, picture_size)
    reader = ImageReader(segmenter_of(options), options.um_per_px, options.max_pixels, _margin(networks), picture_size)
    return image_source(options.images, part, reader)


def segmenter_of(options: Options) -> Segmenter:
    """Return the segmenter that is asked for."""
    if options.masks is not None:
        return MasksOnDisk(options.masks, max_pixels=options.max_pixels)
    return ClassicalSegmenter()


def _margin(networks: list) -> int:
    """Return the pixels around a cell that the networks' preparations can use, as their training data had them."""
    needs = [
        network.served.dataset["margin"]
        for network in networks
        if network.served.recipe["preparation"]["square"] == "grow" or network.served.recipe["preparation"]["margin"]
    ]
    return max(needs, default=0)


def _request(options: Options, networks: list, source: Source, postprocessing: PostProcessing) -> dict[str, Any]:
    """Return everything that decides the results, as JSON values."""
    asked = {
        field.name: getattr(options, field.name)
        for field in dataclasses.fields(options)
        if field.name not in _NOT_IN_REQUEST
    }
    reader = source.load
    return {
        "options": asked,
        "segmenter": reader.segmenter.name if isinstance(reader, ImageReader) else None,
        "postprocessing": dataclasses.asdict(postprocessing),
        "networks": [
            {"name": network.name, "weight": network.weight, "sha256": network.digest} for network in networks
        ],
    }


def _predict_all(options: Options, workers: Workers, networks: list, source: Source, finisher: Finisher) -> Outcome:
    """Run reading, inference and finishing side by side over the images that are not done."""
    from hpa_tf.prediction.inference import predict_fields
    from hpa_tf.prediction.runtimes import tensorflow_run

    done = results.done_images(options.out)
    todo = [i for i, image_id in enumerate(source.image_ids) if image_id not in done]
    outcome, limit = Outcome(), workers.count + 2
    loading = workers.map(_load, ((source.load, source.task(i), source.image_ids[i]) for i in todo), limit)
    finishing: collections.deque = collections.deque()
    with tqdm.tqdm(total=len(source.image_ids), initial=len(source.image_ids) - len(todo), unit="image") as bar:
        fields = _fields(loading, outcome, options, bar)
        runs = [tensorflow_run(network) for network in networks]
        in_report = set(source.image_ids[: options.report_images])
        for one in predict_fields(
            fields,
            networks,
            runs,
            options.batch_size,
            options.tta,
            with_embedding=options.embeddings or options.anndata,
            with_cards=in_report.__contains__,
        ):
            finishing.append(workers.submit(finisher, one.field, one.probabilities, one.embedding, one.cards))
            outcome.num_cells += len(one.field.table)
            while len(finishing) > limit or (finishing and finishing[0].done()):
                _finish(finishing, outcome, bar)
        while finishing:
            _finish(finishing, outcome, bar)
    _report_failures(options, outcome)
    return outcome


def _finish(finishing: collections.deque, outcome: Outcome, bar: tqdm.tqdm) -> None:
    outcome.num_lowered += result(finishing.popleft())
    outcome.num_predicted += 1
    bar.update()


def _load(task: tuple) -> FieldCells | Failed:
    """Read one image in a worker; one that cannot be used comes back as `Failed`."""
    load, what, image_id = task
    try:
        return load(what)
    except InputError as error:
        return Failed(image_id, error)


def _fields(loading: Iterator[FieldCells | Failed], outcome: Outcome, options: Options, bar) -> Iterator[FieldCells]:
    """Pass the fields on; note failures, or raise the first."""
    for field in loading:
        if isinstance(field, Failed):
            if options.on_error == "fail":
                raise field.error
            outcome.failures.append((field.image_id, str(field.error)))
            bar.write(f"skipped {field.image_id}: {field.error}")
            bar.update()
            continue
        for text in field.warnings:
            warnings.warn(text, HpaWarning, stacklevel=2)
        outcome.seconds.update(field.seconds)
        yield field


def _report_failures(options: Options, outcome: Outcome) -> None:
    """Write failures.csv and say what is unusual."""
    import pandas as pd

    if options.on_error == "skip":
        table = pd.DataFrame(outcome.failures, columns=["image_id", "error"])
        reporting.write_csv(table, files.join(options.out, FAILURES))
    if outcome.num_cells and outcome.num_lowered / outcome.num_cells > _MANY_LOWERED:
        share = outcome.num_lowered / outcome.num_cells
        text = f"{share:.0%} of the cells have a value below 1 (border or outlier rule): check masks and channels"
        warnings.warn(text, HpaWarning, stacklevel=2)

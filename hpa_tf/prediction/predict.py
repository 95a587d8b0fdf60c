"""The whole prediction: check what is asked, run the stages side by side, write the final files."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from hpa_tf import files, folder_lock, interrupts, prediction_folder
from hpa_tf.beam import LOCAL
from hpa_tf.classes import DEFAULT_UM_PER_PX
from hpa_tf.image_labels import read_image_labels
from hpa_tf.imaging.image_cells import Reading
from hpa_tf.imaging.segmentation.child_process import BY_NETWORK, FOLDER, MaskRequest, write_masks
from hpa_tf.imaging.segmentation.choosing import make_segmenter
from hpa_tf.memory import keep_freed_memory
from hpa_tf.postprocessing import PostProcessing
from hpa_tf.prediction import adapting, outputs, report, results, stages
from hpa_tf.prediction.aside import NO_PICTURES, Pictures
from hpa_tf.prediction.finishing import Finisher
from hpa_tf.prediction.heat import heat_writer
from hpa_tf.prediction.light import LightCheck
from hpa_tf.prediction.needs import Needs
from hpa_tf.prediction.options import Options, parse_part
from hpa_tf.prediction.shards import shard_source
from hpa_tf.prediction.sources import ImageReader, Source, image_source
from hpa_tf.prediction.stages import Outcome
from hpa_tf.prediction.trained_on import check_channels, check_scale, scales_of
from hpa_tf.prediction.workers import Workers
from hpa_tf.quiet import import_tensorflow
from hpa_tf.records import read_manifest

if TYPE_CHECKING:  # TensorFlow: not in the workers
    from hpa_tf.prediction.members import Network

_PICTURE_SIZE = 1024
_IDENTITY = (
    *("run", "system", "runs", "images", "data", "fold", "masks", "cell_pattern", "nucleus_pattern", "segmenter"),
    *("segmenter_weights", "um_per_px", "full_scale", "max_pixels", "tta", "batch_size", "precision", "shard"),
    *("overlays", "top_k", "report_images", "embeddings", "anndata", "heat_maps", "csv", "image_labels"),
    *("pattern", "channels", "without", "project"),
)
"""Options that decide what is in a prediction folder; the others say how it is made. Device and post-processing are
resolved: see `_request`."""
_LATER = ("heat_maps", "csv", "image_labels", "pattern", "channels", "without", "project")
"""Options that earlier versions did not have: not in the request where they have no effect."""


def predict(options: Options, pool: Workers | None = None) -> Outcome:
    """Predict what the options ask for; images that are done already are not predicted again.

    Args:
        options: What is asked.
        pool: Worker processes to use, for those who predict again and again; None starts some and ends them.

    Raises:
        InputError: Bad options, runs or images, or a prediction under other options in the same folder.
    """
    options.check()
    if options.image_labels is not None:
        read_image_labels(options.image_labels)  # what is wrong with it is said before hours of work
    options = with_masks(options)
    keep_freed_memory()
    with _nothing_half_written(options), _pictures(options) as pictures, _workers(options, pool) as workers:
        import_tensorflow()  # not in the workers, and while they start
        from hpa_tf.prediction import default_run, members, runtimes

        options = default_run.with_run(options)
        if options.adapt is not None:
            options = adapted(options, workers)
        device, networks, system = runtimes.open_networks(options)
        usual = system.postprocessing if system else members.usual_postprocessing(networks)
        postprocessing = options.postprocessing or usual
        needs = members.needs_of(networks, options.report_images > 0 or options.heat_maps)
        source = make_source(options, networks, needs, pictures)
        request = _request(options, device.facts, networks, source, postprocessing)
        light = LightCheck(networks)
        if options.data is not None:
            light.check_range(read_manifest(options.data).brightness, options.data)
        shares = tuple(network.weight for network in networks if network.column is None)
        heat = heat_writer(options, networks)
        finisher = Finisher(options.out, shares, postprocessing, options.overlays, options.top_k, heat)
        with results.begun(options.out, request):
            interrupts.keeps(f"finished images are kept in {options.out}; the same command continues")
            num_changed = results.drop_changed(options.out, source.stamps)
            done = results.done_images(options.out)
            if options.runner == LOCAL:
                outcome = stages.Stages(options, source, done, workers, finisher, light).run(networks, device)
            else:
                from hpa_tf.prediction.beam_runner import run_on_beam  # TensorFlow

                outcome = run_on_beam(options, source, done, finisher, light)
    outcome.failures += [(image_id, str(error)) for image_id, error in source.faults]
    stages.report(outcome, options)
    failed = {image_id for image_id, _ in outcome.failures}
    image_ids = [image_id for image_id in source.image_ids if image_id not in failed]
    outcome.num_images, outcome.num_changed = len(image_ids), num_changed
    write_final(options.out, image_ids, len(failed))
    interrupts.keeps(f"everything is written to {options.out}")
    return outcome


def adapted(options: Options, workers: Workers) -> Options:
    """Return options that predict with the run that `--adapt` names, after it was written; see `adapting`.

    Raises:
        InputError: See `adapting.adapt`.
    """
    from hpa_tf.prediction import members

    networks = members.load_networks(options.run)
    source = make_source(options, networks, members.needs_of(networks), NO_PICTURES)
    return adapting.adapt(options, source, networks, workers)


def with_masks(options: Options) -> Options:
    """Return options that read masks, after a network wrote them where one is asked for.

    Raises:
        InputError: It could not.
    """
    if options.segmenter not in BY_NETWORK:
        return options
    out, how = files.join(options.out, FOLDER), (options.max_pixels, options.workers, options.on_error)
    weights, more = options.segmenter_weights, {"shard": options.shard, "layout": options.layout}
    request = MaskRequest(
        *(options.segmenter, options.images, out, options.um_per_px, weights, *how, options.full_scale), **more
    )
    return dataclasses.replace(options, segmenter=None, segmenter_weights=None, masks=write_masks(request))


@contextlib.contextmanager
def _nothing_half_written(options: Options) -> Iterator[None]:
    """Remove, once the workers have ended, what one that was stopped in the middle of writing left behind."""
    try:
        yield
    finally:
        if options.runner == LOCAL:
            for folder in (prediction_folder.PARTS, prediction_folder.RAW, prediction_folder.OVERLAYS):
                folder_lock.remove_unfinished(files.join(options.out, folder))


def _workers(options: Options, pool: Workers | None) -> contextlib.AbstractContextManager:
    """Return the processes that read and finish; with Beam, this process has none."""
    if pool or options.runner != LOCAL:
        return contextlib.nullcontext(pool)
    return Workers(options.workers)


def _pictures(options: Options) -> contextlib.AbstractContextManager[Pictures]:
    """Return what draws overlays; Beam's workers, elsewhere, leave them in their own folder of temporary files."""
    pictures = Pictures(_PICTURE_SIZE if options.overlays or options.report_images else 0)
    return pictures.waiting() if options.runner == LOCAL else contextlib.nullcontext(pictures)


def write_final(out: str, image_ids: Sequence[str], num_failures: int) -> None:
    """Write the final files of a folder of results, as its manifest asks for them."""
    request = results.request_of(out)
    asked = request["options"]
    names = [network["name"] for network in request["networks"] if "column" not in network]
    labels = read_image_labels(asked["image_labels"]) if asked.get("image_labels") else {}
    asked_for = outputs.Asked(asked["embeddings"], asked["anndata"], asked.get("csv", False), labels)
    rows = outputs.write_outputs(out, image_ids, names, asked_for)
    if asked["report_images"]:
        title = asked["system"] or " + ".join(names)
        report.write_report(out, image_ids, asked["report_images"], title, rows)
    results.end(out, {"num_images": len(image_ids), "num_failures": num_failures})


def make_source(options: Options, networks: Sequence["Network"], needs: Needs, pictures: Pictures) -> Source:
    """Return the images or shards that are asked for.

    Raises:
        InputError: There are none.
    """
    part = parse_part(options.shard)
    if options.data is not None:
        check_channels(read_manifest(options.data).without, networks, options.allow_other_channels)
        return shard_source(options.data, options.fold, part, pictures, needs)
    check_channels([options.layout.without], networks, options.allow_other_channels)
    if options.um_per_px is not None:
        check_scale(options.um_per_px, scales_of(networks))
    patterns = (options.cell_pattern, options.nucleus_pattern)
    segmenter = make_segmenter(
        options.segmenter, options.segmenter_weights, options.masks, patterns, options.max_pixels
    )
    reading = Reading(segmenter, options.um_per_px, options.full_scale, options.max_pixels)
    reader = ImageReader(reading, needs, pictures, scales_of(networks) if options.um_per_px is None else ())
    skip = options.on_error == "skip"
    return image_source(options.images, part, reader, options.masks, patterns, skip, options.layout)


def _request(
    options: Options,
    facts: Mapping[str, object],
    networks: Sequence["Network"],
    source: Source,
    postprocessing: PostProcessing,
) -> dict[str, object]:
    """Return everything that decides the results, as JSON values."""
    defaults = {field.name: field.default for field in dataclasses.fields(options)}
    asked = {name: getattr(options, name) for name in _IDENTITY}
    asked = {name: value for name, value in asked.items() if name not in _LATER or value != defaults[name]}
    asked["um_per_px"] = DEFAULT_UM_PER_PX if options.um_per_px is None else options.um_per_px  # see `image_source`
    reader = source.load
    return {
        "options": asked,
        "device": facts,
        "segmenter": reader.reading.segmenter.name if isinstance(reader, ImageReader) else None,
        "postprocessing": dataclasses.asdict(postprocessing),
        "networks": [
            {"name": network.name, "weight": network.weight, "sha256": network.digest}
            | ({} if network.column is None else {"column": network.column})
            for network in networks
        ],
    }

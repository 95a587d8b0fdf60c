"""The whole prediction: give each stage what it needs of the options, run them side by side, write the final files."""

import contextlib
import dataclasses
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hpa_tf import cell_table, files, interrupts
from hpa_tf.beam import LOCAL
from hpa_tf.errors import HpaWarning, counted
from hpa_tf.identity import differences
from hpa_tf.image_labels import read_image_labels
from hpa_tf.imaging.brightness import NOTHING_STRETCHED
from hpa_tf.imaging.image_cells import Reading
from hpa_tf.imaging.segmentation.child_process import BY_NETWORK, FOLDER, MaskRequest, write_masks
from hpa_tf.imaging.segmentation.choosing import make_segmenter
from hpa_tf.memory import keep_freed_memory
from hpa_tf.postprocessing import PostProcessing
from hpa_tf.prediction.adapting import Adaptation
from hpa_tf.prediction.aside import Pictures
from hpa_tf.prediction.finishing import Finisher
from hpa_tf.prediction.heat import heat_writer
from hpa_tf.prediction.inputs import Images, Shards
from hpa_tf.prediction.options import Options
from hpa_tf.prediction.outputs import check_anndata, write_final
from hpa_tf.prediction.requests import check_goes_on, make_request, reading_of
from hpa_tf.prediction.results import begun, owned
from hpa_tf.prediction.stages import FAILURES, SMALLER, How, Outcome, Stages, report
from hpa_tf.prediction.trained_on import LightCheck
from hpa_tf.prediction.workers import Workers
from hpa_tf.prediction_folder import CELLS
from hpa_tf.quiet import import_tensorflow

if TYPE_CHECKING:  # TensorFlow: not in the workers
    from hpa_tf.prediction.members import Network
    from hpa_tf.prediction.runtimes import NetworkRequest

_PICTURE_SIZE = 1024


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
    if options.anndata:
        check_anndata(options.out)
    options = _with_masks(options)
    keep_freed_memory()
    local = options.runner == LOCAL
    with contextlib.ExitStack() as owning:  # of the folder of the results, from its first file to its last
        with contextlib.ExitStack() as stack:
            pictures = Pictures(_PICTURE_SIZE if options.overlays or options.report_images else 0)
            if local:  # Beam's workers, elsewhere, leave pictures in their own folder of temporary files
                pictures = stack.enter_context(pictures.waiting())
                pool = pool or stack.enter_context(Workers(options.workers))
            outcome, image_ids = _run(options, pictures, pool if local else None, owning)
        write_final(options.out, image_ids, len(outcome.failures))
    if options.full_scale is not None and image_ids:
        _tell_of_8_bits(options.out)
    interrupts.keeps(f"everything is written to {options.out}")
    return outcome


def _tell_of_8_bits(out: str) -> None:
    """Warn where the option for 16-bit images found none."""
    bits = {int(one) for part in cell_table.read_parts(files.join(out, CELLS), ["bits"]) for one in part["bits"]}
    if bits == {8}:
        warnings.warn(NOTHING_STRETCHED, HpaWarning, stacklevel=2)


def _tell_of_other_images(image_labels: str, image_ids: Sequence[str]) -> None:
    """Warn where a table of labels knows none of the images."""
    if image_ids and not read_image_labels(image_labels, image_ids).keys() & set(image_ids):
        text = f"{image_labels} names none of the {counted(len(image_ids), 'image')} (the first is {image_ids[0]})"
        warnings.warn(f"{text}: no cell is compared with its image's label", HpaWarning, stacklevel=2)


def _tell_of_other_steps(asked: PostProcessing, usual: PostProcessing) -> None:
    """Warn of the usual steps that options of others have put back to the defaults, as they replace all of them."""
    asked_for, known, defaults = map(dataclasses.asdict, (asked, usual, PostProcessing()))
    silent = [name for name, value in asked_for.items() if value == defaults[name]]
    if lines := [line for name in silent for line in differences({name: known[name]}, {name: asked_for[name]})]:
        text = "--postprocessing replaces all of the usual steps of these networks, so also"
        warnings.warn(f"{text} {'; '.join(lines)}: give what is to stay as well", HpaWarning, stacklevel=3)


def _tell_of_alike_embeddings(network: "Network") -> None:
    """Warn where the features of a network are those of the whole field, for each of its cells."""
    from hpa_tf.views import Field

    answer = network.served.signatures["prepared"]  # of a SavedModel, or of a network that another view asks
    traced = answer.get_concrete_function() if hasattr(answer, "get_concrete_function") else answer
    embedding = traced.structured_outputs.get("embedding")
    if isinstance(network.view, Field) and embedding is not None and embedding.shape.rank == 2:
        found = f"embeddings are those of {network.name}: features of a whole image, the same for all of its cells"
        warnings.warn(f"{found}; name a network of single cells first", HpaWarning, stacklevel=3)


def _run(
    options: Options, pictures: Pictures, workers: Workers | None, owning: contextlib.ExitStack
) -> tuple[Outcome, list[str]]:
    """Predict each image into its result file; return what was done, and the images that have one.

    The folder of the results is made and owned, until `owning` ends, once nothing speaks against the options.
    """
    import_tensorflow()  # not in the workers, and while they start
    from hpa_tf.devices import memory_explained
    from hpa_tf.prediction.members import needs_of, usual_postprocessing

    inputs, options = _inputs(options), _with_run(options)
    if options.adapt is not None:
        options = _adapted(options, inputs, workers)
    networks_asked = _networks_asked(options)
    device, networks, system = networks_asked.open()
    usual = system.postprocessing if system else usual_postprocessing(networks)
    postprocessing = options.postprocessing or usual
    _tell_of_other_steps(postprocessing, usual)
    if options.embeddings or options.anndata:
        _tell_of_alike_embeddings(networks[0])
    source = inputs.source(networks, needs_of(networks, options.report_images > 0 or options.heat_maps), pictures)
    if options.image_labels is not None:
        _tell_of_other_images(options.image_labels, source.image_ids)
    light = LightCheck(networks)
    if source.manifest is not None:
        light.check_range(source.manifest.brightness, options.data, source.manifest.num_images)
    shares = tuple(network.weight for network in networks if network.column is None)
    stored_margin = None if source.manifest is None else source.manifest.margin
    heat = heat_writer(options.out, networks, stored_margin) if options.heat_maps else None
    finisher = Finisher(options.out, shares, postprocessing, options.overlays, options.top_k, heat)
    how = How(
        options.batch_size,
        options.tta,
        embeddings=options.embeddings or options.anndata,
        heat_maps=options.heat_maps,
        num_cards=options.report_images,
        skip=options.on_error == "skip",
    )
    request = make_request(options, device.facts, networks, source, postprocessing)
    owning.enter_context(owned(options.out, request, tidy=workers is not None))
    with begun(options.out, request, source.stamps) as at, memory_explained(SMALLER):
        if workers is not None:
            outcome = Stages(how, source, at.done, workers, finisher, light).run(networks, device)
        else:
            from hpa_tf.prediction.beam_runner import Runner, Work, run_on_beam  # TensorFlow

            work = Work(options.out, networks_asked, how, source.load, finisher)
            runner = Runner(options.runner, options.beam_options, options.workers)
            outcome = run_on_beam(work, source, at.done, light, runner)
    outcome.failures += [(image_id, str(error)) for image_id, error in source.faults]
    report(outcome, files.join(options.out, FAILURES))
    failed = {image_id for image_id, _ in outcome.failures}
    image_ids = [image_id for image_id in source.image_ids if image_id not in failed]
    outcome.num_images, outcome.num_changed = len(image_ids), at.num_changed
    return outcome, image_ids


def _with_run(options: Options) -> Options:
    """Return options that name a run or a system."""
    if options.run or options.system:
        return options
    from hpa_tf.prediction.default_run import choose_run

    return dataclasses.replace(options, run=(choose_run(options.out, options.adapt),))


def _adapted(options: Options, inputs: Images | Shards, workers: Workers) -> Options:
    """Return options that predict with the run that `--adapt` names, after it was written.

    Raises:
        InputError: See `Adaptation.write`.
    """
    from hpa_tf.prediction.members import load_networks, needs_of

    networks = load_networks(options.run)
    source = inputs.source(networks, needs_of(networks))
    reading, skip = reading_of(options, source), options.on_error == "skip"
    Adaptation(*options.run, options.adapt, reading, options.adapt_share, skip).write(source, networks, workers)
    return dataclasses.replace(options, run=(options.adapt,), adapt=None)


def _networks_asked(options: Options) -> "NetworkRequest":
    """Return which networks are asked for."""
    from hpa_tf.prediction.runtimes import NetworkRequest

    device = (options.runtime, options.precision, options.strategy)
    return NetworkRequest(options.run, options.system, options.runs, *device)


def _inputs(options: Options) -> Images | Shards:
    """Return what is asked to be predicted.

    Raises:
        InputError: The folder of masks is missing, or a name in it cannot be.
    """
    if options.data is not None:
        return Shards(options.data, options.part, options.fold, options.allow_other_channels)
    patterns = (options.cell_pattern, options.nucleus_pattern)
    segmenter = make_segmenter(
        options.segmenter, options.segmenter_weights, options.masks, patterns, options.max_pixels
    )
    reading = Reading(segmenter, options.um_per_px, options.full_scale, options.max_pixels)
    found_by = options.segmenter if options.masks else segmenter.name
    how = (options.on_error == "skip", options.allow_other_channels, found_by)
    return Images(options.images, options.part, reading, options.layout.parse(), options.masks, patterns, *how)


def _with_masks(options: Options) -> Options:
    """Return options that read masks, after a network wrote them where one is asked for.

    That may take hours: what can be said against the prediction that follows is said before.

    Raises:
        InputError: It could not, a run cannot be used, or the folder of the results holds another prediction.
    """
    if options.segmenter not in BY_NETWORK:
        return options
    options = _with_run(options)
    adapted = options.run if options.adapt is None else (options.adapt,)
    check_goes_on(dataclasses.replace(options, run=adapted))
    import_tensorflow()
    _networks_asked(options).open()
    out, how = files.join(options.out, FOLDER), (options.max_pixels, options.workers, options.on_error)
    weights, more = options.segmenter_weights, {"shard": options.shard, "layout": options.layout.parse()}
    request = MaskRequest(
        *(options.segmenter, options.images, out, options.um_per_px, weights, *how, options.full_scale), **more
    )
    return dataclasses.replace(options, masks=write_masks(request))

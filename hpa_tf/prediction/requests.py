"""What decides the results of a prediction: written into its folder, and compared when it goes on."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hpa_tf import files
from hpa_tf.classes import DEFAULT_UM_PER_PX
from hpa_tf.identity import check_kind, check_same
from hpa_tf.imaging.segmentation.child_process import BY_NETWORK
from hpa_tf.imaging.segmentation.masks_on_disk import ABOUT, without_folder
from hpa_tf.postprocessing import PostProcessing
from hpa_tf.prediction.options import Options
from hpa_tf.prediction.results import comparable, in_full, request_of
from hpa_tf.prediction.sources import ImageReader, Source
from hpa_tf.prediction_folder import MANIFEST

if TYPE_CHECKING:  # TensorFlow: not in the workers
    from hpa_tf.prediction.members import Network

_READING = ("um_per_px", "full_scale")
"""Options that decide, beside those of the layout, what is read of a given image file."""
_IDENTITY = (
    *("run", "system", "runs", "images", "data", "fold", "masks", "cell_pattern", "nucleus_pattern"),
    *("tta", "batch_size", "precision", "shard"),
    *("overlays", "top_k", "report_images", "embeddings", "anndata", "heat_maps", "csv", "image_labels"),
    *_READING,
)
"""Options that decide, beside those of the layout, what is in a prediction folder; the others say how it is made.
Segmenter, device and post-processing are resolved: see `make_request`."""
_LATER = ("heat_maps", "csv", "image_labels")
"""Options that earlier versions did not have: not in the request where they have no effect, as those of the layout."""


def make_request(
    options: Options,
    device: Mapping[str, object],
    networks: Sequence["Network"],
    source: Source,
    postprocessing: PostProcessing,
) -> dict[str, object]:
    """Return everything that decides the results, as JSON values.

    Args:
        options: What is asked.
        device: What of the device decides the numbers.
        networks: What predicts.
        source: The images.
        postprocessing: Steps from probabilities to scores.
    """
    return {
        "options": _options(options),
        "device": device,
        "segmenter": _segmenter(options, source),
        "postprocessing": dataclasses.asdict(postprocessing),
        "networks": [
            {"name": network.name, "weight": network.weight, "sha256": network.digest}
            | ({} if network.column is None else {"column": network.column})
            | ({} if options.tta or network.tta == "none" else {"tta": network.tta})
            for network in networks
        ],
    }


def _options(options: Options) -> dict[str, object]:
    """Return the options that decide the results, places in full."""
    asked = _asked(options, _IDENTITY)
    asked["tta"] = options.tta or "none"  # what the members say instead stands beside each
    if options.segmenter in BY_NETWORK:
        asked["masks"] = None  # they lie in the folder of the results; see `_segmenter`
    return in_full(asked)


def check_goes_on(options: Options) -> None:
    """Check that the folder of the results holds no prediction under other options, as far as options say it.

    Raises:
        InputError: It does; names each difference.
    """
    check_kind(options.out, MANIFEST)
    path = files.join(options.out, MANIFEST)
    if not files.exists(path):
        return
    before = request_of(options.out)
    now = {**before, "options": _options(options)}
    if not isinstance(before["segmenter"], dict):  # no masks of a network
        now["segmenter"] = options.segmenter
    check_same(path, comparable(before), comparable(now), "prediction", "give the same options, or another --out")


def reading_of(options: Options, source: Source) -> dict[str, object]:
    """Return what decides, beside the files, which cells are found in images and how bright they are, as JSON values.

    Args:
        options: What is asked.
        source: The images.
    """
    segmenter = _segmenter(options, source)
    name = without_folder(segmenter) if isinstance(segmenter, str) else segmenter  # the stamps are of the files there
    return {**_asked(options, _READING), "segmenter": name}


def _asked(options: Options, names: Sequence[str]) -> dict[str, object]:
    defaults = {field.name: field.default for field in dataclasses.fields(options)}
    asked = {name: getattr(options, name) for name in names}
    asked = {name: value for name, value in asked.items() if name not in _LATER or value != defaults[name]}
    um_per_px = DEFAULT_UM_PER_PX if options.um_per_px is None else options.um_per_px  # see `image_source`
    return asked | options.layout.given | {"um_per_px": um_per_px}


def _segmenter(options: Options, source: Source) -> object:
    """Return what finds the cells: its name; of a network that wrote masks, all that decides them; None for shards."""
    if options.segmenter in BY_NETWORK:
        return files.read_json(files.join(options.masks, ABOUT))
    reader = source.load
    return reader.reading.segmenter.name if isinstance(reader, ImageReader) else None

"""What decides the results of a prediction: written into its folder, and compared when it goes on."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hpa_tf.classes import DEFAULT_UM_PER_PX
from hpa_tf.postprocessing import PostProcessing
from hpa_tf.prediction.options import Options
from hpa_tf.prediction.sources import ImageReader, Source

if TYPE_CHECKING:  # TensorFlow: not in the workers
    from hpa_tf.prediction.members import Network

_IDENTITY = (
    *("run", "system", "runs", "images", "data", "fold", "masks", "cell_pattern", "nucleus_pattern"),
    *("um_per_px", "full_scale", "max_pixels", "tta", "batch_size", "precision", "shard"),
    *("overlays", "top_k", "report_images", "embeddings", "anndata", "heat_maps", "csv", "image_labels"),
    *("pattern", "channels", "without", "project"),
)
"""Options that decide what is in a prediction folder; the others say how it is made. Segmenter, device and
post-processing are resolved: see `make_request`."""
_LATER = ("heat_maps", "csv", "image_labels", "pattern", "channels", "without", "project")
"""Options that earlier versions did not have: not in the request where they have no effect."""


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
    defaults = {field.name: field.default for field in dataclasses.fields(options)}
    asked = {name: getattr(options, name) for name in _IDENTITY}
    asked = {name: value for name, value in asked.items() if name not in _LATER or value != defaults[name]}
    asked["um_per_px"] = DEFAULT_UM_PER_PX if options.um_per_px is None else options.um_per_px  # see `image_source`
    asked["tta"] = options.tta or "none"  # what the members say instead stands beside each
    reader = source.load
    return {
        "options": asked,
        "device": device,
        "segmenter": reader.reading.segmenter.name if isinstance(reader, ImageReader) else None,
        "postprocessing": dataclasses.asdict(postprocessing),
        "networks": [
            {"name": network.name, "weight": network.weight, "sha256": network.digest}
            | ({} if network.column is None else {"column": network.column})
            | ({} if options.tta or network.tta == "none" else {"tta": network.tta})
            for network in networks
        ],
    }

"""The SavedModel of a run: the network with its preparation inside, usable with TensorFlow alone.

`RUN/saved_model/1/` is TensorFlow Serving's folder layout. Signatures (B cells; all give `probabilities` [B, 19] in
class order, Negative = 1 - max of the others where the network does not answer it):

    serving_default   crop: PNG bytes [B], 8 or 16 bit, 4 channels, any size; the whole picture is the cell
    crop_and_region   crop, region: PNG bytes [B] each, as in the records
    pixels_uint8      crop: uint8 [B, H, W, 4], region: uint8 [B, H, W]
    pixels_uint16     the same for 16 bit
    prepared          image: float32 [B, S, S, 4] in 0..1, as `prepare_*` gives it; adds `embedding` [B, D], the
                      features before the last layer
    feature_map       image as above -> features [B, h, w, D], of a network that names its last map
    activation_maps   image as above; adds `class_id` [B], the most probable class, and `heat` [B, h, w] in 0..1, of a
                      network with square feature maps
    prepare_uint8     crop: uint8 [H, W, 4], region: uint8 [H, W] -> image: float32 [S, S, 4]
    prepare_uint16    the same for 16 bit
    prepared_0, ...   of a run whose recipe averages several checkpoints: each by itself; all others answer their mean
    metadata          -> class_names [19], channels [4], recipe and dataset as JSON

Those are of a network that sees crops. One of bags or whole fields has prepared, feature_map, activation_maps,
prepare_* and metadata, by the names of its view's inputs; `prepared` answers [B, K or 1, 19] (1: the same for all cells
of an example) and `embedding` [B, D] or [B, K, D], `activation_maps` [B, K or 1, ...]: of a field, maps of all of it.
Its `serving_default`, which TensorFlow Serving wants, is `prepared`.

A PNG's size is read from its header, in the graph, before anything is decoded.

exporting.py     writes a SavedModel; png.py: from PNG to a network's input, in the graph
loading.py       finds, checks and loads one; operations.py: what it may hold
runs.py          where a run is on this machine; starter.py: the starter as a run; cache.py: the user's cache
server.py        serves a run over HTTP; web.py: what it lets in
request.py       what a request asks; whole_images.py: requests about bags and fields
heat_maps.py     where a network sees a class in a cell
onnx.py          a network as ONNX
bioimageio.py    a bioimage.io package; about.py: what it says of itself
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpa_tf.serving.exporting import FOLDER, VERSION, Checkpoint, export
    from hpa_tf.serving.loading import Served, find, from_network, lacks_checkpoints, load
    from hpa_tf.serving.png import MAX_CROP_PIXELS
    from hpa_tf.serving.runs import resolve

__all__ = [
    "FOLDER",
    "MAX_CROP_PIXELS",
    "VERSION",
    "Checkpoint",
    "Served",
    "export",
    "find",
    "from_network",
    "lacks_checkpoints",
    "load",
    "resolve",
]

_MODULES = {
    **dict.fromkeys(("FOLDER", "VERSION", "Checkpoint", "export"), "exporting"),
    **dict.fromkeys(("Served", "find", "from_network", "lacks_checkpoints", "load"), "loading"),
    "MAX_CROP_PIXELS": "png",
    "resolve": "runs",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: TensorFlow takes seconds, in which Ctrl-C must end the command."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__} has no {name}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)

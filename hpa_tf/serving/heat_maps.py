"""Where a network sees a class in a cell: HiResCAM over the feature maps of stride 8 and 16.

The last map of most networks has stride 32: 2 x 2 at 64 px, which says nothing about a place in a cell. Each earlier
map is multiplied, place by place and channel by channel, by the gradient of the class's logit, and its channels are
added; what is positive of each map is scaled to a maximum of 1, and the maps are added. On the last map before a mean
and a dense layer this is the class-activation map. Source: Draelos & Carin 2020.

ours: measured by benchmarks/heat_maps.py on 523 classes of 412 generated cells, 64 px: IoU of binarised map and green
in the cell, and in brackets that of the map of a class which the cell has not, and of an area of that size at chance:
.149 (.114, .107), right above wrong by .035 +- .005. The class-activation map of stride 32: .126 (.103, .126); of the
crop enlarged twice .115 (.087, .103), four times .104 (.065, .089), which costs 16 times as much. LayerCAM on the same
maps .198 (.191, .123) and input x gradient .216 (.206, .106) show what is bright, as brightness alone does (.276), not
what the class is.

A network that answers for several cells at once, each by pieces of its own (FCAN's cells alone, the crops of a bag),
has a map for each: one gradient gives them all. Where cells are read off one map of the field (Puzzle-CAM, mask
pooling), it is their map.
"""

from collections.abc import Callable, Mapping, Sequence

import keras
import tensorflow as tf

STRIDES = (8, 16)
"""Of the maps that are added, px of the input a place, per side."""

Draw = Callable[[Mapping[str, tf.Tensor], tf.Tensor], tf.Tensor]
"""A network's inputs by name, and int32 [B, R] the place among its classes of a class for each of its R rows of cells
(1: the same for all cells) -> float32 [B, R, h, w] in 0..1, the maps of what it sees of them: a crop each, or the whole
field each."""


def drawer(network: keras.Model, rows: int) -> Draw | None:
    """Return what draws a network's maps; None where it has none.

    Args:
        network: What a recipe's network built.
        rows: R, of the probabilities [B, R, classes] that it answers.
    """
    model = with_maps(network, rows)
    if model is not None:
        return lambda inputs, place: hires_cam(model, inputs, place)
    return _activations(network) if "cam" in network.output else None


def _activations(network: keras.Model) -> Draw:
    """Return what draws class-activation maps. Source: Zhou et al. 2016."""

    def draw(inputs: Mapping[str, tf.Tensor], place: tf.Tensor) -> tf.Tensor:
        cam = tf.cast(network(_own(network, inputs), training=False)["cam"], tf.float32)
        return scaled(tf.nn.relu(tf.transpose(tf.gather(cam, place, axis=3, batch_dims=1), (0, 3, 1, 2))))

    return draw


def with_maps(network: keras.Model, rows: int = 1) -> keras.Model | None:
    """Return the network with two outputs, `logits` of its rows of cells and a list of `maps`; None where it has none.

    The maps are those of its own graph or, where an image network is called inside it, of each call. A network whose
    cells share a map of the field has its last one only: earlier ones look across the cells' borders.

    Args:
        network: See `drawer`.
        rows: See `drawer`.
    """
    outputs = network.output
    if "cell_logits" in outputs and outputs["cell_logits"].shape[1] == rows:
        name, own = "cell_logits", [outputs["features"]] if "features" in outputs else []
    elif "logits" in outputs and rows == 1:
        name, own = "logits", maps_of(network)
    else:
        return None
    inside: list[keras.KerasTensor] = []

    def call(layer: keras.Layer, *args, **kwargs):
        maps = maps_of(layer) if isinstance(layer, keras.Model) else []
        if not maps:
            return layer(*args, **kwargs)
        found = keras.Model(layer.input, [layer.output, *maps])(*args, **kwargs)
        inside.extend(found[1:])
        return found[0]

    nested = any(isinstance(layer, keras.Model) for layer in network.layers)
    if nested and (name == "cell_logits" or not own):
        network = keras.models.clone_model(network, clone_function=lambda layer: layer, call_function=call)
        own = inside
    return keras.Model(network.input, {"logits": network.output[name], "maps": own}) if own else None


def maps_of(network: keras.Model) -> list[keras.KerasTensor]:
    """Return the last feature map of each of `STRIDES`; none for a network without square maps in its own graph.

    That is the last one through which all that the network sees must pass, not one of a branch, if there is any, and
    else the last. Where no map has a stride's side, one that is less than half smaller counts.
    """
    image = network.input["image"] if isinstance(network.input, dict) else network.input
    has_parts = any(isinstance(layer, keras.Model) for layer in network.layers)  # their inner paths are not followed
    whole = set() if has_parts else _passed_by_all(network, image)
    square, found = [], []
    for layer in network.layers:
        shape = () if isinstance(layer, keras.Model) else getattr(layer.output, "shape", ())
        if len(shape) == 4 and shape[1] == shape[2] and not isinstance(layer, keras.layers.ZeroPadding2D):
            square.append(layer.output)
    for stride in STRIDES:
        side, next_side = -(-image.shape[1] // stride), -(-image.shape[1] // (2 * stride))
        exact = [one for one in square if one.shape[1] == side]
        # convolutions without padding lose a border: InceptionV3 has 35 px, not 38, of 299
        near = exact or [one for one in square if next_side < one.shape[1] < side]
        found += ([one for one in near if id(one) in whole] or near)[-1:]
    return found


def _passed_by_all(network: keras.Model, image: keras.KerasTensor) -> set[int]:
    """Return the ids of the tensors of a graph that no path from the image goes around."""
    made, last_use = {id(image): -1}, {}
    for place, operation in enumerate(network.operations):
        sources = [made[id(one)] for one in keras.tree.flatten(operation.input) if id(one) in made]
        if sources and not isinstance(operation, keras.layers.InputLayer):
            last_use |= dict.fromkeys(sources, place)
            made |= {id(one): place for one in keras.tree.flatten(operation.output)}
    found, open_until = set(), last_use.get(-1, -1)
    for one, place in list(made.items())[1:]:
        if open_until <= place:
            found.add(one)
        open_until = max(open_until, last_use.get(place, place))
    return found


def hires_cam(model: keras.Model, inputs: Mapping[str, tf.Tensor], place: tf.Tensor) -> tf.Tensor:
    """Return the maps of a class for each row of cells, float32 [B, R, h, w] in 0..1; see `Draw`.

    Args:
        model: `with_maps` of a network. Of maps [B P, h, w, D] of several pieces of an example the first R are those
            of its cells; where P is 1, the cells share it. Maps on which the logits do not depend are left out.
        inputs: The network's inputs.
        place: int32 [B, R].
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(inputs["image"])
        outputs = model(_own(model, inputs), training=False)
        logits = tf.cast(outputs["logits"], tf.float32)
        by_row = logits if len(logits.shape) == 3 else logits[:, None]
        logit = tf.gather(by_row, place, axis=2, batch_dims=2)
    gradients = tape.gradient(logit, outputs["maps"])
    heats = []
    for gradient, values in zip(gradients, outputs["maps"], strict=True):
        if gradient is not None:
            product = tf.cast(gradient, tf.float32) * tf.cast(values, tf.float32)
            heats.append(scaled(tf.nn.relu(tf.reduce_sum(product, axis=-1))))
    heat = scaled(added(heats))
    count, rows, size = tf.shape(place)[0], place.shape[1], tf.shape(heat)[1:]
    pieces = tf.reshape(heat, (count, -1, size[0], size[1]))[:, :rows]
    return tf.broadcast_to(pieces, (count, rows, size[0], size[1]))


def _own(network: keras.Model, inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {name: inputs[name] for name in network.input}


def added(heats: Sequence[tf.Tensor]) -> tf.Tensor:
    """Add maps [B, h, w] of several sizes at the size of the first."""
    size = tf.shape(heats[0])[1:]
    return tf.add_n([heats[0], *(tf.image.resize(heat[..., None], size)[..., 0] for heat in heats[1:])])


def scaled(heat: tf.Tensor) -> tf.Tensor:
    """Scale each map [.., h, w] to a maximum of 1; one that is nowhere positive stays 0."""
    return tf.math.divide_no_nan(heat, tf.reduce_max(heat, axis=(-2, -1), keepdims=True))

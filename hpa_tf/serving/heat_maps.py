"""Where in its view of a cell a network sees a class: HiResCAM over the feature maps of stride 8 and 16.

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
"""

from collections.abc import Sequence

import keras
import tensorflow as tf

STRIDES = (8, 16)
"""Of the maps that are added, px of the input a place, per side."""


def maps_of(network: keras.Model) -> list[keras.KerasTensor]:
    """Return the last feature map of each of `STRIDES`; none for a network without square maps in its own graph."""
    size = network.input["image"].shape[1]
    sides = [-(-size // stride) for stride in STRIDES]
    found = {}
    for layer in network.layers:
        shape = getattr(layer.output, "shape", ())
        if len(shape) == 4 and shape[1] == shape[2] and shape[1] in sides:
            found[shape[1]] = layer.output
    return [found[side] for side in sides if side in found]


def hires_cam(network: keras.Model, image: tf.Tensor, place: tf.Tensor) -> tf.Tensor | None:
    """Return the maps of one class a cell, float32 [B, h, w] in 0..1; None where the network has no such maps.

    Args:
        network: From {"image"} to outputs with `logits` [B, classes].
        image: float32 [B, S, S, C].
        place: int32 [B], the class's place among the logits.
    """
    maps = maps_of(network)
    if not maps:
        return None
    model = keras.Model(network.input, {"logits": network.output["logits"], "maps": maps})
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(image)
        outputs = model({"image": image}, training=False)
        logit = tf.gather(tf.cast(outputs["logits"], tf.float32), place, axis=1, batch_dims=1)
    gradients = tape.gradient(logit, outputs["maps"])
    heats = []
    for gradient, values in zip(gradients, outputs["maps"], strict=True):
        product = tf.cast(gradient, tf.float32) * tf.cast(values, tf.float32)
        heats.append(scaled(tf.nn.relu(tf.reduce_sum(product, axis=-1))))
    return scaled(added(heats))


def added(heats: Sequence[tf.Tensor]) -> tf.Tensor:
    """Add maps [B, h, w] of several sizes at the size of the first."""
    size = tf.shape(heats[0])[1:]
    return tf.add_n([heats[0], *(tf.image.resize(heat[..., None], size)[..., 0] for heat in heats[1:])])


def scaled(heat: tf.Tensor) -> tf.Tensor:
    """Scale each map to a maximum of 1; one that is nowhere positive stays 0."""
    return tf.math.divide_no_nan(heat, tf.reduce_max(heat, axis=(1, 2), keepdims=True))

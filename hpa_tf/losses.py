"""What a network is trained on: objects that turn (network, batch) into one loss an example.

The training loop knows nothing else about a network. A system with branches or extra losses brings an object with the
same call; one cell in, 18 logits out is `PerCell`.
"""

from dataclasses import dataclass

import keras
from keras import ops


@dataclass(frozen=True)
class PerCell:
    """Focal loss (or binary cross-entropy) of each cell's 18 logits against its soft labels. Source: METHODS 3, W 6."""

    focal_gamma: float = 2.0
    """How much well-predicted values count less: loss x (1 - exp(-loss))^gamma; 0 = binary cross-entropy."""

    def __call__(self, network: keras.Model, batch: dict):
        """Return the loss of each example, float32 [B].

        Unknown values (known 0) add nothing; the sum is over the known ones, divided by 18, so every known value of a
        batch weighs the same.

        Args:
            network: float32 pixels [B, S, S, 4] -> logits [B, 18].
            batch: image [B, S, S, 4], labels and known [B, 19] (the 19th, Negative, is derived and not trained).
        """
        logits = ops.cast(network(batch["image"], training=True), "float32")
        labels, known = batch["labels"][:, : logits.shape[1]], batch["known"][:, : logits.shape[1]]
        return ops.mean(focal(labels, logits, self.focal_gamma) * known, axis=1)


def focal(labels, logits, gamma: float):
    """Return the focal loss on soft labels, elementwise: (1 - pt)^gamma * BCE with pt = exp(-BCE).

    Args:
        labels: 0..1, any shape.
        logits: Same shape.
        gamma: >= 0; 0 gives binary cross-entropy.

    Source: METHODS 3 (model).
    """
    # max(x, 0) - x y + log(1 + exp(-|x|)): no overflow for any logit
    loss = ops.maximum(logits, 0) - logits * labels + ops.log1p(ops.exp(-ops.abs(logits)))
    if gamma == 0:
        return loss
    # -expm1(-loss) = 1 - pt without cancellation; the maximum keeps pow's gradient finite where the loss is 0
    return ops.power(ops.maximum(-ops.expm1(-loss), 1e-12), gamma) * loss

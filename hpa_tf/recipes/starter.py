"""The network that works before any training: taught by generated images alone.

`make starter` makes it: 1,440 images as ambiguous as real ones (seed in `hpa_tf.make_starter`), the true labels of all
of their cells, ImageNet weights to start from; hpa_tf/starter holds what came out. Source: ours; docs/realism.md has
what it was measured on.
"""

from dataclasses import replace

from hpa_tf.pipeline import Augmentation, SemiBalanced
from hpa_tf.pipeline.photometry import Noise, Staining
from hpa_tf.pipeline.warps import Affine
from hpa_tf.recipes.optimization import Cosine
from hpa_tf.recipes.recipe import ALL_FOLDS
from hpa_tf.recipes.small import CPU_LITE0
from hpa_tf.views import Crop

STARTER = replace(
    CPU_LITE0,
    name="starter",
    network=replace(CPU_LITE0.network, dropout=0.2),
    weights="imagenet",
    view=Crop(size=96),
    augmentation=Augmentation(
        flip=0.5,
        quarter_turns=True,
        rotation=0,
        resizer=0.3,
        steps=(
            Affine(probability=0.8, rotation=45, scale=(0.7, 1.25), shear=10),
            Staining(probability=0.8, factor=(0.5, 2), exponent=(0.7, 1.4)),
            Noise(probability=0.3, deviation=(2 / 255, 10 / 255)),
        ),
    ),
    sampling=SemiBalanced(num_cells=8192),
    optimization=replace(
        CPU_LITE0.optimization,
        epochs=16,
        batch_size=32,
        learning_rate=2e-3,
        schedule=Cosine(16),
        warmup_steps=100,
    ),
    validation_fold=ALL_FOLDS,
)
"""Users' images are not as sharp as generated ones, their cells are of another size, and each stain is stronger or
weaker than the generator makes it: so crops are blurred, scaled, and each channel's grey levels are changed on their
own."""

RECIPES = (STARTER,)

"""Recipes that a CPU trains in minutes. Source: ours."""

from dataclasses import replace

from hpa_tf.losses import CrossEntropy
from hpa_tf.models.classifier import Classifier
from hpa_tf.models.efficientnet import EfficientNet
from hpa_tf.models.small_cnn import SmallCnn
from hpa_tf.objectives import Labels
from hpa_tf.pipeline import Augmentation, SemiBalanced
from hpa_tf.recipes.optimization import Cosine, Optimization
from hpa_tf.recipes.recipe import Member, Recipe, System
from hpa_tf.views import Crop

CPU_B0 = Recipe(
    name="cpu_b0",
    network=Classifier(EfficientNet("B0", drop_connect=0, norm_momentum=0.9), dropout=0),
    view=Crop(size=64),
    augmentation=Augmentation(flip=0.5, quarter_turns=True, rotation=0),
    objective=(Labels(loss=CrossEntropy()),),
    sampling=SemiBalanced(num_cells=3072),
    optimization=Optimization(epochs=3, batch_size=16, learning_rate=2e-3, schedule=Cosine(3), warmup_steps=50),
)
"""EfficientNetB0 with random initial weights at 64 px. In so few steps small batches, cross entropy and no dropout
learn most: after 8,000 cells of synthetic images the area under the ROC curve of true labels was .65, with focal loss
.56, with batches of 32 and focal loss .54."""

CPU_LITE0 = replace(
    CPU_B0,
    name="cpu_lite0",
    network=replace(CPU_B0.network, backbone=replace(CPU_B0.network.backbone, variant="Lite0")),
    weights="imagenet",
    optimization=replace(CPU_B0.optimization, epochs=6, schedule=Cosine(6)),
)
"""EfficientNet-Lite0 from the ImageNet weights that come with an installed package: the demo's recipe. Chosen by the
validation's soft-label mAP (about .3 by chance) on the demo's training images: .644, after half as many steps .601, at
learning rate 1e-3 .607, in batches of 32 .626."""

CPU_SMALL = Recipe(
    name="cpu_small",
    network=Classifier(SmallCnn()),
    view=Crop(size=64),
    augmentation=Augmentation(flip=0.5, quarter_turns=True, rotation=0),
    sampling=SemiBalanced(num_cells=4096),
    optimization=Optimization(epochs=8, batch_size=32, learning_rate=2e-3, schedule=Cosine(8), warmup_steps=50),
)
"""Four strided convolutions at 64 px."""

CPU_FLIPS = replace(CPU_SMALL, name="cpu_flips")
CPU_RESIZER = replace(
    CPU_SMALL, name="cpu_resizer", augmentation=replace(CPU_SMALL.augmentation, resizer=0.4), ensemble=(0.5, 0.5)
)
CPU_PAD = replace(
    CPU_SMALL,
    name="cpu_pad",
    augmentation=replace(CPU_SMALL.augmentation, resizer=0.3, pad=0.3),
    objective=(Labels(loss=CrossEntropy()),),
    ensemble=(0.2, 0.3, 0.3, 0.2),
)

RECIPES = (CPU_B0, CPU_LITE0, CPU_SMALL, CPU_FLIPS, CPU_RESIZER, CPU_PAD)
SYSTEMS = (
    System("cpu_pair", (Member(CPU_B0, 0.5), Member(CPU_SMALL, 0.5))),
    System("cpu_final_2", (Member(CPU_FLIPS, 0.2), Member(CPU_RESIZER, 0.4), Member(CPU_PAD, 0.4))),
)
"""cpu_final_2: team 4's Final 2 with small networks, for its ablation (`python -m hpa_tf.evaluation ablation`)."""

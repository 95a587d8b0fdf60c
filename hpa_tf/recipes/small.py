"""Recipes that a CPU trains in minutes. Source: ours."""

from hpa_tf.models.efficientnet import EfficientNet, SmallNetwork
from hpa_tf.pipeline import Augmentation, Preparation, Sampling
from hpa_tf.recipes.optimization import Optimization
from hpa_tf.recipes.recipe import Member, Recipe, System

CPU_B0 = Recipe(
    name="cpu_b0",
    network=EfficientNet("B0", norm_momentum=0.95),
    preparation=Preparation(size=64),
    augmentation=Augmentation(flip=0.5, quarter_turns=True, rotation=0),
    sampling=Sampling(num_cells=4096),
    optimization=Optimization(epochs=4, batch_size=32, learning_rate=1e-3, cosine_epochs=4, warmup_steps=50),
)
"""EfficientNetB0 with random initial weights at 64 px."""

CPU_SMALL = Recipe(
    name="cpu_small",
    network=SmallNetwork(),
    preparation=Preparation(size=64),
    augmentation=Augmentation(flip=0.5, quarter_turns=True, rotation=0),
    sampling=Sampling(num_cells=4096),
    optimization=Optimization(epochs=8, batch_size=32, learning_rate=2e-3, cosine_epochs=8, warmup_steps=50),
)
"""Four strided convolutions at 64 px."""

RECIPES = (CPU_B0, CPU_SMALL)
SYSTEMS = (System("cpu_pair", (Member(CPU_B0, 0.5), Member(CPU_SMALL, 0.5))),)

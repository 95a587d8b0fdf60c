"""The starter network: what `--run starter` and `--weights starter` stand for. See MODEL_CARD.md beside this file.

recipe.json     how it was trained
dataset.json    what it was trained on: generated images, no real ones
weights.npz     its weights as float16, by layer
"""

from pathlib import Path

NAME = "starter"
"""The name that stands for it where a run folder is asked for."""
FOLDER = Path(__file__).parent
WEIGHTS = FOLDER / "weights.npz"

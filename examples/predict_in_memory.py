"""Predict the cells of images in Python: `python examples/predict_in_memory.py IMAGES [RUN]`.

Reads the four files of each image of a folder, finds the cells, and prints each cell's first location. RUN is a run
folder; without it the starter network predicts, which was trained on generated images alone.
"""

import sys

import hpa_tf
from hpa_tf.classes import CLASSES
from hpa_tf.imaging.fields import find_fields, read_field

UM_PER_PX = 0.32
"""Micrometres per pixel of your images."""


def main(images: str, run: str = "starter") -> None:
    """Print a line for each cell of each image."""
    predictor = hpa_tf.Predictor(run)  # loads the network: once is enough
    for files in find_fields(images):
        field = read_field(files, UM_PER_PX)  # field.pixels: uint8 or uint16 [height, width, 4]
        table = predictor.predict(field, embeddings=True)  # give masks=... if you have them
        print(f"{files.image_id}: {len(table)} cells")
        for _, cell in table.iterrows():
            scores = cell[list(CLASSES)].astype(float)
            box = ", ".join(str(cell[side]) for side in ("top", "left", "bottom", "right"))
            print(f"  cell {cell['cell']:>3} at {box}: {scores.idxmax()} {scores.max():.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Fields with known cells, and networks of the published kind, but tiny, that find what is bright in them."""

from pathlib import Path

import cv2
import numpy as np
import torch_file_writer
from dpn_weights import tensors

from hpa_tf.models.dpn_unet import DpnUnet, Stage, tensor_shapes
from hpa_tf.segmenting.convert import ConvertOptions, convert

TINY = DpnUnet(8, 4, (Stage(1, 8, 8, 4), Stage(1, 8, 16, 4), Stage(1, 16, 16, 4), Stage(1, 16, 16, 8)))
UM_PER_PX = 0.32


def write_weights(folder: Path, tmp: Path) -> Path:
    """Convert two files: foreground is what is bright in blue, or in red and yellow."""
    shapes = tensor_shapes(TINY.build())
    for name, channels in (("dpn_unet_nuclei_v1.pth", (0,)), ("dpn_unet_cell_3ch_v1.pth", (0, 1))):
        state = {key: np.zeros_like(value) for key, value in tensors(shapes).items()}
        for key in state:
            if key.endswith("running_var") or (key.endswith("weight") and state[key].ndim == 1):
                state[key] += 1
        state["encoder_stages.0.0.weight"][0, list(channels), 3, 3] = 1 / len(channels)
        state["bottlenecks.3.seq.0.weight"][0, 8, 1, 1] = 1  # of the stem, past the decoder
        state["last_upsample.layer.1.weight"][0, 0, 1, 1] = 1
        state["final.0.weight"][2, 0, 1, 1] = 10
        state["final.0.bias"][:] = (0, -20, -5)
        (tmp / name).write_bytes(torch_file_writer.state_dict(state))
        convert(ConvertOptions(str(tmp / name), str(folder)), TINY)
    return folder


def write_field(folder: Path, image_id: str, places, size=(128, 160), dtype=np.uint8) -> np.ndarray:
    """Write the four channels of a field with round cells of radius 16 px and nuclei of 9 px; return the cell mask."""
    folder.mkdir(exist_ok=True)
    full = np.iinfo(dtype).max
    cells, nuclei = np.zeros(size, np.int32), np.zeros(size, np.int32)
    y, x = np.indices(size)
    for number, (row, column) in enumerate(places, 1):
        cells[np.hypot(y - row, x - column) < 16] = number
        nuclei[np.hypot(y - row, x - column) < 9] = number
    for channel, where in (("red", cells), ("green", cells), ("blue", nuclei), ("yellow", cells)):
        plane = np.where(where > 0, 0.9 * full, 0.1 * full).astype(dtype)
        cv2.imwrite(str(folder / f"{image_id}_{channel}.png"), plane)
    return cells


PLACES = ((30, 30), (40, 100), (90, 60))

"""Ask a server for the probabilities of crops: `python client.py http://127.0.0.1:8501 hpa crop1.png crop2.png`.

A crop is a PNG of 4 channels (R, G, B, A = microtubules, protein, nucleus, ER), 8 or 16 bit, of one cell, 0 around
it. Works with TensorFlow Serving and with `python -m hpa_tf.serving serve`; needs Python alone.
"""

import base64
import json
import sys
import urllib.request
from pathlib import Path


def predict(server: str, name: str, crops: list[bytes], timeout: float = 60) -> list[list[float | None]]:
    """Return 19 probabilities for each PNG crop, in class order; None of a class that the network does not answer."""
    instances = [{"crop": {"b64": base64.b64encode(crop).decode()}} for crop in crops]
    request = urllib.request.Request(
        f"{server}/v1/models/{name}:predict",
        json.dumps({"instances": instances}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=timeout) as response:
        predictions = json.load(response)["predictions"]
    # TensorFlow Serving leaves the name away where a signature has one output
    return [row["probabilities"] if isinstance(row, dict) else row for row in predictions]


if __name__ == "__main__":
    server, name, *paths = sys.argv[1:]
    for path, row in zip(paths, predict(server, name, [Path(path).read_bytes() for path in paths]), strict=True):
        print(path, *("-" if probability is None else f"{probability:.4f}" for probability in row))

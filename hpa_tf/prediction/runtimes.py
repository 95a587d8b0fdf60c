"""What runs a network: TensorFlow, onnxruntime or OpenVINO; the same numbers to 1e-4."""

import numpy as np
import tensorflow as tf

from hpa_tf.prediction.inference import Run
from hpa_tf.prediction.members import Network


def tensorflow_run(network: Network) -> Run:
    """Run a network in TensorFlow."""
    infer = network.served.signatures["prepared"]

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        return {name: tensor.numpy() for name, tensor in infer(image=tf.constant(images)).items()}

    return run

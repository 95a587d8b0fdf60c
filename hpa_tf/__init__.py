"""Weakly supervised single-cell protein localization with Keras and TensorFlow.

Importing this package imports nothing heavy: TensorFlow is only loaded by the modules that need it.
"""

__version__ = "0.1.0"


def __getattr__(name: str):
    """Give `hpa_tf.Predictor`, which loads TensorFlow, to those who ask for it."""
    if name == "Predictor":
        import importlib

        importlib.import_module("hpa_tf.quiet").import_tensorflow(whole_keras=True)
        return importlib.import_module("hpa_tf.prediction.predictor").Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

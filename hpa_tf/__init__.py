"""Weakly supervised single-cell protein localization with Keras and TensorFlow.

Importing this package imports nothing heavy: TensorFlow is only loaded by the modules that need it.
"""

__version__ = "0.1.0"

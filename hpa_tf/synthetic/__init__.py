"""Synthetic fields of view with cell-level truth: what each cell shows is known, as no real data set knows it.

    image labels -> cell labels -> bodies -> scene -> stains + patterns -> camera -> files
    weak_labels.py                 bodies.py  scene.py  stains.py, patterns/  camera.py  dataset.py

Every image is a function of (configuration, index): neither the number of images nor that of the workers matters.
"""

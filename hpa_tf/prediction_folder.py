"""A prediction folder: what predict.py leaves behind, by name, for all who read it.

predictions.json     what was asked for, by which networks; written last again: the state is "done"
inputs.json          the state of each image's files
parts/ID.parquet     everything about one image; the files below are made from these
cells.parquet        the cell table of scores, with measurements and the values of the rules (cells.csv with --csv)
submission.csv       the competition's table
embeddings.parquet   what a network's last layer says of each cell, where asked for; cells.h5ad for AnnData
raw/NETWORK.parquet  each network's probabilities
overlays/ID.png      each image with its cells
"""

MANIFEST, STAMPS = "predictions.json", "inputs.json"
CELLS, CELLS_CSV, SUBMISSION = "cells.parquet", "cells.csv", "submission.csv"
EMBEDDINGS, ANNDATA = "embeddings.parquet", "cells.h5ad"
PARTS, RAW, OVERLAYS = "parts", "raw", "overlays"

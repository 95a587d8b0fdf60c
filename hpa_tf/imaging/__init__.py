"""From files to fields of view, masks and single-cell crops. NumPy, SciPy and scikit-image only."""

"""The competition's exact score, and what explains it: bootstrap, ablation, diagnostics, a check of submissions."""

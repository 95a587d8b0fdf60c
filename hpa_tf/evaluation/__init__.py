"""The competition's exact score, and what explains it: bootstrap, ablation, diagnostics, a check of submissions.

command.py      the commands
score.py        `score`: the metric of a submission, its interval and baselines
metric.py       the competition's metric; matching.py: detections to true cells
truth.py        masks and labels of the true cells; detections.py: what is scored; pairing.py: both, image by image
baselines.py    random scores, and the image's label copied to its cells; bootstrap.py: confidence intervals
cells.py        `cells`: a cell table against labels, without masks
check.py        `check`: what a strict scorer would find in a submission
ablation.py     `ablation`: what each step of a system is worth; raw_predictions.py: what it reads
diagnose.py     `diagnose`: where a score comes from; diagnostics.py: its numbers; plots.py: its figures
heat.py         `heat`: whether heat maps lie on the protein
outlines.py     `outlines`: cells as GeoJSON
page.py         `page`: a scored run on one HTML page; opening.py: its first picture
whole_fields.py scores of whole fields of view against image labels
image_folder.py the images that are looked at; mask_folder.py: their masks
"""

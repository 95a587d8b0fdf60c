"""From images or shards to scores: cut, infer, post-process, write; image by image, restartable.

options.py    what a prediction is asked for
sources.py    fields of view with a segmenter -> the cells of one image (worker processes)
shards.py     shards -> the same
workers.py    the process pool that reads, cuts and finishes images while the network runs
adapting.py   --adapt: a run with the batch statistics of the images to predict
members.py    runs and systems -> networks with their weights in the mean
aside.py      pictures for overlays, from the worker that reads an image to the one that finishes it
needs.py      what their views need of an image: crops, the field of view shrunk
batching.py   cells of many images -> batches, for each view of the networks
inference.py  batches -> probabilities, each image returned when it is whole
finishing.py  probabilities -> scores, overlay and the image's own result file (worker processes)
results.py    one result file an image; the manifest that a continued run must match
outputs.py    submission.csv, cells.parquet, raw tables from the result files
predict.py    the whole of it
beam_runner.py  the same on Apache Beam's workers

Nothing is imported here: worker processes run without TensorFlow.
"""

"""From images or shards to scores: cut, infer, post-process, write; image by image, restartable.

command.py    predict.py's command line
options.py    what a prediction is asked for
predict.py    the whole of it: gives each of the following what it needs of the options

  what is predicted
inputs.py     a folder of images or of shards, and how they are read
sources.py    image files -> the cells of one image (worker processes)
shards.py     shards -> the same
needs.py      what the networks' views need of an image: crops, the field of view shrunk
aside.py      pictures for overlays, from the worker that reads an image to the one that finishes it

  what predicts
default_run.py  which run, where none is named
runtimes.py   devices and runtimes; opens the networks that are asked for
members.py    runs and systems -> networks with their weights in the mean; member_data.py: what they were trained on
adapting.py   --adapt: a run with the batch statistics of the images to predict
trained_on.py whether images are like those of the training

  the stages
stages.py     side by side: read, infer, finish
workers.py    the process pool that reads, cuts and finishes images while the network runs
batching.py   cells of many images -> batches, for each view of the networks
inference.py  batches -> probabilities, each image returned when it is whole
finishing.py  probabilities -> scores, overlay and the image's own result file (worker processes)
cards.py, heat.py    what the report and --heat-maps show of a cell
beam_runner.py  the same stages on Apache Beam's workers

  what is written
requests.py   what decides the results: a continued run must be asked for the same
results.py    the folder: that request, and which images are done
result_files.py  everything about one image, in a file of its own
outputs.py    submission.csv, cells.parquet, raw tables, report from the result files
heterogeneity.py, report.py    two of them
merging.py    joins the results of parts (merge.py: its command)

predictor.py  `hpa_tf.Predictor`: an image in memory -> its table

Nothing is imported here: worker processes run without TensorFlow.
"""

"""Training: from a recipe and a data folder to a run folder, on one GPU, many GPUs, many machines or a TPU.

command.py      the options of train.py
run.py          one run folder: check, train or go on, export
start.py        what a training starts from
model_card.py   README.md of a run folder
claim.py        makes the folder this run's own; site.py: the data and the devices of a training
systems.py      all members of a system; folds.py: cross-validation
out_of_fold.py  what networks say of cells that they have not seen; leaks.py: whether that is so
fine_tuning.py  the second stage of a system, on hand grades
relabelling.py  one small network a class, for pseudo-labels
loop.py         the loop: epochs, checkpoints, validation
trainee.py      network, optimizer, moving average, and one pure step of them
strategy.py     devices and precision; cluster.py: TF_CONFIG
inputs.py       batches, distributed over the replicas
checkpoint.py   the state in one file, atomically
validation.py   metrics over the validation cells
logs.py         progress bar, TensorBoard, history.csv, final table
preemption.py   SIGTERM and Ctrl-C while steps are taken: a checkpoint first
"""

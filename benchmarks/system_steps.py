"""One training step of every network of the systems at full size: parameters, seconds, memory.

    python benchmarks/system_steps.py                                   # all networks of the three systems
    python benchmarks/system_steps.py --systems bestfitting
    python benchmarks/system_steps.py --recipes dieter_masks --steps 2

    python benchmarks/system_steps.py --batch 0 --precision auto --processes 8 --steps 3  # on a GPU

The network, the optimizer and the step are the recipe's own, with random weights; the batch is one example of noise (or
the recipe's own number of them) of the size that the recipe's view gives (of a bag: all its cells). Each network has a
process of its own, so that the largest memory is its own: of the process, or of a GPU where there is one. Several
processes build and trace their networks at once and take their steps one after the other, beside what the others still
build. What was measured is kept in OUT: the same command goes on with what is missing.
"""

import fcntl
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported

import numpy as np
import tyro

from hpa_tf import files
from hpa_tf.recipes import Recipe, recipe_named, system_named
from hpa_tf.training.strategy import Precision

SYSTEMS = ("bestfitting", "red_ai", "mpware_zfturbo_dieter")
TOO_LONG = 1_800
"""Seconds after which a network is given up."""


@dataclass(frozen=True)
class Options:
    """What is measured."""

    systems: tuple[str, ...] = SYSTEMS
    """Systems whose members and specialists are measured."""
    recipes: tuple[str, ...] = ()
    """Names of recipes; default: those of the systems."""
    out: str = "system_steps.json"
    """File that keeps what was measured."""
    batch: int = 1
    """Examples of a step; 0 = the recipe's batch size."""
    precision: Precision = "float32"
    """Policy of the networks; auto = what train.py takes on this machine."""
    steps: int = 1
    """Steps after tracing; the fastest counts."""
    processes: int = 1
    """Networks that are built at the same time."""
    alone: str = ""
    """Measure this recipe in this process, and print the result as JSON."""


def names_of(systems: tuple[str, ...]) -> list[str]:
    """Return the recipes of some systems; of those that differ only in what they are trained with, the first."""
    found = [system_named(name) for name in systems]
    recipes = [one.recipe for system in found for one in (*system.members, *system.specialists)]
    firsts: dict = {}
    for recipe in recipes:
        firsts.setdefault((recipe.network, recipe.view), recipe.name)
    return list(firsts.values())


def measured(recipe: Recipe, options: Options) -> dict:
    """Return what a network costs; the process must have done nothing else before."""
    import tensorflow as tf

    from hpa_tf.devices import find_gpus
    from hpa_tf.memory import keep_freed_memory
    from hpa_tf.training.strategy import make_strategy, resolve_precision
    from hpa_tf.training.trainee import Trainee

    keep_freed_memory()  # as train.py does
    gpus, start = find_gpus(), time.perf_counter()
    strategy = make_strategy("one")
    trainee = Trainee(recipe, strategy, resolve_precision(options.precision, strategy))
    size = options.batch or recipe.optimization.batch_size
    batch, rate, decay = batch_of(recipe, size), tf.constant(1e-4), tf.constant(0.9)
    step = trainee.make_train_step().get_concrete_function(batch, rate, decay)
    built, seconds, processor = time.perf_counter() - start, [], []
    turn = open(options.out + ".lock", "w")  # noqa: SIM115 - held until the process and its memory are gone
    fcntl.flock(turn, fcntl.LOCK_EX)
    for _ in range(options.steps):
        start, before = time.perf_counter(), time.process_time()
        loss = float(step(batch, rate, decay))
        seconds.append(time.perf_counter() - start)
        processor.append(time.process_time() - before)
    if not np.isfinite(loss):
        raise ValueError(f"{recipe.name}: a loss of {loss}")
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "input": " x ".join(map(str, batch.inputs["image"].shape[1:])),
        "batch": size,
        "asked": [options.batch, options.precision],
        "parameters": trainee.network.count_params(),
        "building": built,
        "step": min(seconds),
        "processor": min(processor),
        "memory": tf.config.experimental.get_memory_info("GPU:0")["peak"] if gpus else host,
    }


def batch_of(recipe: Recipe, size: int):
    """Return noise with the shapes of a recipe's view, cells on a grid, and labels."""
    import tensorflow as tf

    from hpa_tf.views import Batch

    rng, specs, count = np.random.default_rng(0), recipe.view.specs(), recipe.view.num_cells
    inputs = {"image": rng.random((size, *specs["image"].shape), np.float32)}
    if "masks" in specs:
        inputs["masks"] = np.repeat(grid(specs["masks"].shape[0], count)[None], size, axis=0)
    if "present" in specs:
        inputs["present"] = np.ones((size, count), np.float32)
    labels = (rng.random((size, 19)) < 0.15).astype(np.float32)
    return Batch(
        inputs={name: tf.constant(value) for name, value in inputs.items()},
        rows=tf.reshape(tf.range(size * count, dtype=tf.int64), (size, count)),
        cell_labels=tf.repeat(tf.constant(labels)[:, None], count, axis=1),
        cell_known=tf.ones((size, count, 19)),
        image_labels=tf.constant(labels),
        image_known=tf.ones((size, 19)),
        weight=tf.ones(size),
        seed=tf.reshape(tf.range(2 * size), (size, 2)),
        antibody=tf.range(size),
    )


def grid(size: int, count: int) -> np.ndarray:
    """Return masks int32 [S, S] of square cells with background between them."""
    masks, side = np.zeros((size, size), np.int32), int(np.ceil(np.sqrt(count)))
    pitch = size // side
    for k in range(count):
        top, left = (pitch * one for one in divmod(k, side))
        masks[top + pitch // 8 : top + pitch, left + pitch // 8 : left + pitch] = k + 1
    return masks


def measure_in_a_process(name: str, options: Options) -> dict:
    """Return what a network costs, or why it could not be measured."""
    words = ["--alone", name, "--batch", str(options.batch), "--steps", str(options.steps), "--out", options.out]
    words += ["--precision", options.precision]
    limit = TOO_LONG * options.processes
    try:
        done = subprocess.run(
            [sys.executable, __file__, *words], capture_output=True, text=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {limit} s"}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        return {"failed": f"exit code {done.returncode}: {last[:200]}"}
    return json.loads(done.stdout.splitlines()[-1])


def row(name: str, found: dict) -> str:
    """Return a network's line of the table."""
    if "failed" in found:
        return f"| {name} | {found['failed']} | | | | | | |"
    sizes = f"{found['input']} | {found['batch']} | {found['parameters'] / 1e6:.1f}"
    times = f"{found['building']:.0f} | {found['step']:.3g} | {found['processor']:.3g}"
    return f"| {name} | {sizes} | {times} | {found['memory'] / 2**30:.1f} |"


def found_in_turn(names: list[str], kept: dict, options: Options) -> Iterator[str]:
    """Yield the names as soon as they are in `kept`; what is measured is written at once."""
    asked = [options.batch, options.precision]
    missing = [name for name in names if kept.get(name, {}).get("asked") != asked]
    yield from (name for name in names if name not in missing)
    with ThreadPoolExecutor(options.processes) as threads:
        running = {threads.submit(measure_in_a_process, name, options): name for name in missing}
        for done in as_completed(running):
            kept[running[done]] = done.result()
            files.write_json(options.out, kept)
            yield running[done]


def main(options: Options) -> None:
    """Measure what is missing, and print the table."""
    if options.alone:
        print(json.dumps(measured(recipe_named(options.alone), options)))
        return
    kept = files.read_json(options.out) if files.exists(options.out) else {}
    titles = ("network", "an example", "batch", "million weights", "building s", "step s", "processor s", "peak GiB")
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    for name in found_in_turn(list(options.recipes or names_of(options.systems)), kept, options):
        print(row(name, kept[name]), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

"""Prediction: does a core idle, how fast is each runtime, what do views and images cost?

    python benchmarks/predict.py overlap     wall time of prediction against the CPU time of its stages, each alone
    python benchmarks/predict.py runtimes    cells/s of EfficientNetB0 in TensorFlow, onnxruntime, OpenVINO, PyTorch
    python benchmarks/predict.py tta         time of 2, 8 and 16 views against none
    python benchmarks/predict.py memory      peak memory against the number of images

Images are synthetic unless --images is given; weights are random: they do not change the time. PyTorch needs torch
and timm in the environment (see README); what is not installed is left out.
"""

import dataclasses
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import tyro

from hpa_tf.classes import CHANNELS, CLASSES
from hpa_tf.memory import keep_freed_memory
from hpa_tf.prediction.options import Options


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Measure prediction."""

    what: tyro.conf.Positional[str]
    """overlap, runtimes, tta or memory."""
    images: str | None = None
    """Folder of images instead of synthetic ones."""
    num_images: int = 24
    """Synthetic images."""
    image_size: int = 1024
    """Their side, px."""
    size: int = 128
    """Side of the network's input, px."""
    batch_size: int = 16
    """Cells a batch."""
    repeats: int = 3
    """Repeats of each measurement; the median counts."""


def make_run(folder: Path, size: int) -> str:
    """Export an EfficientNetB0 with random weights, unless it is there."""
    from hpa_tf import serving
    from hpa_tf.recipes import Recipe
    from hpa_tf.records import SCHEMA_VERSION, Manifest
    from hpa_tf.views import Crop

    run = folder / f"b0_{size}"
    if not (run / "saved_model/1/saved_model.pb").exists():
        manifest = Manifest(SCHEMA_VERSION, CLASSES, CHANNELS, "png", (0.08,), (8,), 0, "none", 1, 0, 0, (), {}, "0")
        recipe = Recipe("b0", view=Crop(size))
        serving.export(run, recipe.network.build(recipe.view.specs()), recipe, manifest)
    return str(run)


def make_images(options: Benchmark, folder: Path, count: int) -> str:
    """Return a folder of images: the one that was given, or synthetic ones."""
    if options.images:
        return options.images
    from hpa_tf.synthetic.__main__ import main

    out = folder / f"synthetic_{count}_{options.image_size}"
    if not (out / "synthetic.json").exists():
        main(["--out", str(out), "--num-images", str(count), "--size", str(options.image_size), "--seed", "1"])
    return str(out / "images")


def median_seconds(function: Callable[[], object], repeats: int) -> float:
    """Return the median wall time of a call, s."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def overlap(options: Benchmark, folder: Path) -> None:
    """Compare the wall time of prediction with the CPU time of its stages."""
    from hpa_tf.imaging.image_cells import Reading
    from hpa_tf.imaging.segmentation.classical import ClassicalSegmenter
    from hpa_tf.prediction.inference import predict_fields
    from hpa_tf.prediction.members import load_networks
    from hpa_tf.prediction.predict import predict
    from hpa_tf.prediction.runtimes import Device
    from hpa_tf.prediction.sources import ImageReader, image_source
    from hpa_tf.prediction.workers import Workers

    run, images = make_run(folder, options.size), make_images(options, folder, options.num_images)
    asked = Options(str(folder), run=(run,), images=images, overlays=False, report_images=0)
    source = image_source(images, (0, 1), ImageReader(Reading(ClassicalSegmenter())))
    source.load(source.task(0))  # imports
    start = time.process_time()
    fields = [source.load(source.task(i)) for i in range(len(source.image_ids))]
    reading = time.process_time() - start
    seconds = {name: sum(field.seconds[name] for field in fields) for name in ("read", "segment", "cut")}
    networks = load_networks([run])
    runs = [Device().run_of(networks[0])]
    list(predict_fields(fields[:2], networks, runs, options.batch_size))
    start = time.process_time()
    list(predict_fields(fields, networks, runs, options.batch_size))
    inference = time.process_time() - start
    cores = len(os.sched_getaffinity(0))
    walls = []
    with Workers() as pool:
        for repeat in range(options.repeats):
            out = tempfile.mkdtemp(dir=folder)
            if repeat == 0:  # starts and warms the workers
                predict(dataclasses.replace(asked, out=out), pool)
                out = tempfile.mkdtemp(dir=folder)
            start = time.perf_counter()
            predict(dataclasses.replace(asked, out=out), pool)
            walls.append(time.perf_counter() - start)
    wall, floor = float(np.median(walls)), (reading + inference) / cores
    num_cells = sum(len(field.table) for field in fields)
    print(f"{len(fields)} images, {num_cells} cells, {cores} cores; CPU seconds of each stage alone:")
    print(f"  read {seconds['read']:.1f}, segment {seconds['segment']:.1f}, cut and measure {seconds['cut']:.1f}")
    print(f"  prepare and infer {inference:.1f}; floor = sum / {cores} = {floor:.1f} s")
    print(f"  predict.py: {wall:.1f} s wall, {wall / floor:.2f} x the floor, {len(fields) / wall:.2f} images/s")


def runtimes(options: Benchmark, folder: Path) -> None:
    """Compare the runtimes on one batch."""
    from hpa_tf.errors import InputError
    from hpa_tf.prediction.members import load_networks
    from hpa_tf.prediction.runtimes import Device

    (network,) = load_networks([make_run(folder, options.size)])
    shape = (options.batch_size, options.size, options.size, 4)
    inputs = {"image": np.random.default_rng(0).random(shape, np.float32)}
    base, rows = None, []
    for name in ("tensorflow", "onnx", "openvino"):
        try:
            run = Device(name).run_of(network)
        except InputError as error:
            print(f"{name}: left out ({error})")
            continue
        answer = run(inputs)["probabilities"]
        base = answer if base is None else base
        seconds = median_seconds(lambda run=run: run(inputs), 10 * options.repeats)
        rows.append((name, options.batch_size / seconds, f"{np.abs(answer - base).max():.1e}"))
    if torch_seconds := _torch_seconds(options):
        rows.append(("torch + timm", options.batch_size / torch_seconds, "other weights"))
    print(f"EfficientNetB0, {options.size} px, batch {options.batch_size}, float32, {os.cpu_count()} cores")
    print(f"{'runtime':<14}{'cells/s':>9}{'x TensorFlow':>14}  largest difference")
    for name, speed, difference in rows:
        print(f"{name:<14}{speed:>9.0f}{speed / rows[0][1]:>14.2f}  {difference}")


def _torch_seconds(options: Benchmark) -> float | None:
    """Return the time of a batch of the same network in PyTorch, channels last; None if it is not installed."""
    from train_step import _stub_torchvision

    _stub_torchvision()
    try:
        import timm
        import torch
    except ImportError as error:
        print(f"torch + timm: left out ({error})")
        return None
    model = (
        timm.create_model("efficientnet_b0", in_chans=4, num_classes=18).eval().to(memory_format=torch.channels_last)
    )
    images = torch.rand(options.batch_size, 4, options.size, options.size).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        model(images)
        return median_seconds(lambda: model(images), 10 * options.repeats)


def tta(options: Benchmark, folder: Path) -> None:
    """Compare the time of views."""
    from hpa_tf.prediction.inference import augmented
    from hpa_tf.prediction.members import load_networks
    from hpa_tf.prediction.runtimes import Device

    (network,) = load_networks([make_run(folder, options.size)])
    run = Device().run_of(network)
    shape = (options.batch_size, options.size, options.size, 4)
    inputs = {"image": np.random.default_rng(0).random(shape, np.float32)}
    kinds = ("none", "2", "8", "16")
    rounds = [
        [median_seconds(lambda views=views: [run(view) for view in augmented(inputs, views)], 1) for views in kinds]
        for _ in range(options.repeats * 3 + 1)
    ]
    seconds = np.array(rounds[1:])  # the first warms up
    for views, taken, ratio in zip(kinds, seconds.T, (seconds / seconds[:, :1]).T, strict=True):
        milliseconds, times = np.median(taken) * 1000, np.median(ratio)
        print(f"tta {views:>4}: {milliseconds:7.1f} ms a batch of {options.batch_size}, {times:5.2f} x none")


def memory(options: Benchmark, folder: Path) -> None:
    """Show the peak memory of prediction for more and more images."""
    from hpa_tf.prediction.predict import predict

    run = make_run(folder, options.size)
    for count in (options.num_images // 4, options.num_images // 2, options.num_images):
        images, out = make_images(options, folder, count), tempfile.mkdtemp(dir=folder)
        peak, done = [0.0, 0.0], threading.Event()
        watcher = threading.Thread(target=_watch, args=(peak, done))
        watcher.start()
        predict(Options(out, run=(run,), images=images))
        done.set()
        watcher.join()
        print(f"{count:4d} images: peak {peak[0]:.2f} GB in the main process, {peak[1]:.2f} GB with its workers")


def _watch(peak: list[float], done: threading.Event) -> None:
    process = psutil.Process()
    while not done.wait(0.05):
        own, total = process.memory_info().rss / 1e9, process.memory_info().rss / 1e9
        for child in process.children(recursive=True):
            try:
                total += child.memory_info().rss / 1e9
            except psutil.NoSuchProcess:
                continue
        peak[:] = max(peak[0], own), max(peak[1], total)


def main() -> None:
    """Run one benchmark."""
    options = tyro.cli(Benchmark)
    keep_freed_memory()  # as predict.py does; for everything that is compared
    with tempfile.TemporaryDirectory(prefix="hpa_tf_benchmark_") as folder:  # nothing of an earlier commit is measured
        {"overlap": overlap, "runtimes": runtimes, "tta": tta, "memory": memory}[options.what](options, Path(folder))


if __name__ == "__main__":
    main()

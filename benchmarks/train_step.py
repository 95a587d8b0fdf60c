"""Cells per second of a training step: this project beside PyTorch + timm, same network, size, batch and precision.

    python benchmarks/train_step.py --size 128 --batches 16 --precisions float32 mixed_bfloat16

Both train EfficientNetB0 with 4 channels, 18 logits, focal loss and Adam, on one batch that stays in memory, each in a
process of its own that uses all cores. timm runs channels_last, under autocast for bfloat16. The first step (tracing,
allocations) is shown by itself; then the two take rounds of steps in turn, and the median step counts. torch and timm
are optional: pip install '.[bench]', then pip install --no-deps timm==1.0.31 (its torchvision has no CPU build).
"""

import multiprocessing
import resource
import statistics
import sys
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np
import tyro

ROUND = 4
"""Steps of a round; the first is not measured."""


@dataclass(frozen=True)
class Options:
    """What is measured."""

    size: int = 128
    """Side of the input, px."""
    batches: tuple[int, ...] = (16,)
    """Cells of a step."""
    precisions: tuple[str, ...] = ("float32",)
    """float32, mixed_bfloat16, mixed_float16."""
    rounds: int = 6
    """Rounds of 3 measured steps for each framework."""
    only: str = ""
    """tensorflow or torch; empty = both."""


def batch_of(size: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels float32 [B, S, S, 4] and labels float32 [B, 19], the same for both."""
    rng = np.random.default_rng(0)
    return rng.random((count, size, size, 4), np.float32), (rng.random((count, 19)) < 0.1).astype(np.float32)


def tensorflow_step(size: int, count: int, precision: str) -> Callable[[], float]:
    """Return one step of the project's own training loop."""
    import tensorflow as tf

    from hpa_tf.memory import keep_freed_memory
    from hpa_tf.recipes import Recipe
    from hpa_tf.training.strategy import make_strategy
    from hpa_tf.training.trainee import Trainee
    from hpa_tf.views import Batch, Crop

    keep_freed_memory()  # as train.py does
    pixels, labels = batch_of(size, count)
    trainee = Trainee(Recipe("benchmark", view=Crop(size=size)), make_strategy("one"), precision)
    step = trainee.make_train_step()
    batch = Batch(
        inputs={"image": tf.constant(pixels)},
        rows=tf.range(count, dtype=tf.int64)[:, None],
        cell_labels=tf.constant(labels[:, None]),
        cell_known=tf.ones((count, 1, 19)),
        image_labels=tf.constant(labels),
        image_known=tf.ones((count, 19)),
        weight=tf.ones(count),
        seed=tf.random.uniform((count, 2), -(2**31), 2**31 - 1, tf.int32, seed=0),
    )
    return lambda: float(step(batch, tf.constant(1e-3), tf.constant(0.0)))


def torch_step(size: int, count: int, precision: str) -> Callable[[], float]:
    """Return one step of timm's efficientnet_b0, written as PyTorch users write it."""
    _stub_torchvision()
    import timm
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = timm.create_model("efficientnet_b0", in_chans=4, num_classes=18, drop_rate=0.2, drop_path_rate=0.2)
    network = network.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-4)
    pixels, labels = batch_of(size, count)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(device).contiguous(memory_format=torch.channels_last)
    targets = torch.from_numpy(labels[:, :18]).to(device)
    dtype = {"float32": torch.float32, "mixed_bfloat16": torch.bfloat16, "mixed_float16": torch.float16}[precision]

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            logits = network(images).float()
        bce = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        loss = ((1 - torch.exp(-bce)) ** 2 * bce).mean()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def _stub_torchvision() -> None:
    """timm imports torchvision for image transforms, which nothing here uses and which has no CPU build."""

    class AnyClass(type):
        def __getattr__(cls, name: str) -> str:
            return f"{cls.__name__}.{name}"

    class Anything(types.ModuleType):
        __path__: tuple = ()

        def __getattr__(self, name: str):
            return AnyClass(name, (), {}) if not name.startswith("__") else super().__getattribute__(name)

    for name in ("transforms", "transforms.functional", "datasets", "ops", "ops.misc", "models"):
        parent, _, child = f"torchvision.{name}".rpartition(".")
        module = sys.modules.setdefault(f"torchvision.{name}", Anything(f"torchvision.{name}"))
        setattr(sys.modules.setdefault(parent, Anything(parent)), child, module)


def serve(make: Callable, size: int, count: int, precision: str, pipe: Connection) -> None:
    """Take the first two steps, then `ROUND` steps for each message; runs in a process of its own.

    Sends {first, memory} and then the seconds of each step of a round but its first, in which the other framework's
    threads may still be spinning.
    """
    step = make(size, count, precision)
    start = time.perf_counter()
    step()
    first = time.perf_counter() - start
    step()
    pipe.send({"first": first, "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20})
    while pipe.recv():
        seconds = []
        for _ in range(ROUND):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        pipe.send(seconds[1:])


def compare(options: Options, precision: str, count: int) -> None:
    """Print one row for each framework; their rounds alternate, so that a slow minute of the machine hits both."""
    context, pipes, found = multiprocessing.get_context("spawn"), {}, {}
    for name, make in (("tensorflow", tensorflow_step), ("torch", torch_step)):
        if options.only in ("", name):
            pipe, other_end = context.Pipe()
            arguments = (make, options.size, count, precision, other_end)
            context.Process(target=serve, args=arguments, daemon=True).start()
            other_end.close()
            try:
                found[name] = {**pipe.recv(), "seconds": []}
                pipes[name] = pipe
            except EOFError:
                print(f"{name:<12} {precision:<15} failed (see above)")
    for _ in range(options.rounds):
        for name, pipe in pipes.items():
            pipe.send(True)
            found[name]["seconds"] += pipe.recv()
    for name, pipe in pipes.items():
        pipe.send(False)
        rate = count / statistics.median(found[name]["seconds"])
        row = f"{rate:>8.1f} {found[name]['first']:>12.1f} {found[name]['memory']:>8.2f}"
        print(f"{name:<12} {precision:<15} {options.size:>4} {count:>5} {row}", flush=True)


def main(options: Options) -> None:
    """Print the table."""
    print(f"{'':<12} {'precision':<15} {'px':>4} {'batch':>5} {'cells/s':>8} {'first step s':>12} {'peak GiB':>8}")
    for precision in options.precisions:
        for count in options.batches:
            compare(options, precision, count)


if __name__ == "__main__":
    main(tyro.cli(Options))

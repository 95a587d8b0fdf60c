"""Cells per second of a training step: this project beside PyTorch + timm, same network, size, batch and precision.

    python benchmarks/train_step.py --size 128 --batches 16 --precisions float32 mixed_bfloat16

Both train EfficientNetB0 with 4 channels, 18 logits, focal loss and Adam, on one batch that stays in memory, each in a
process of its own that uses all cores. timm runs channels_last, under autocast for bfloat16. The first step (tracing,
allocations) is shown by itself; then steps alternate between measured rounds, and the median counts. torch and timm
are optional: pip install '.[bench]', then pip install --no-deps timm==1.0.31 (its torchvision has no CPU build).
"""

import json
import multiprocessing
import resource
import statistics
import sys
import time
import types
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tyro


@dataclass(frozen=True)
class Options:
    """What is measured."""

    size: int = 128
    """Side of the input, px."""
    batches: tuple[int, ...] = (16,)
    """Cells of a step."""
    precisions: tuple[str, ...] = ("float32",)
    """float32, mixed_bfloat16, mixed_float16."""
    steps: int = 8
    """Measured steps, after 2 that are not."""
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
    from hpa_tf.pipeline import Preparation
    from hpa_tf.recipes import Recipe
    from hpa_tf.training.strategy import make_strategy
    from hpa_tf.training.trainee import Trainee

    keep_freed_memory()  # as train.py does
    pixels, labels = batch_of(size, count)
    trainee = Trainee(Recipe("benchmark", preparation=Preparation(size=size)), make_strategy("one"), precision)
    step = trainee.make_train_step()
    batch = {
        "image": tf.constant(pixels),
        "labels": tf.constant(labels),
        "known": tf.ones_like(labels),
        "weight": tf.ones(count),
        "seed": tf.random.uniform((count, 2), -(2**31), 2**31 - 1, tf.int32, seed=0),
    }
    return lambda: float(step(batch, tf.constant(0.0)))


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


def measure(make: Callable, size: int, count: int, precision: str, steps: int, pipe) -> None:
    """Send {first, seconds, memory} of a step through `pipe`; runs in a process of its own."""
    step = make(size, count, precision)
    start = time.perf_counter()
    step()
    first = time.perf_counter() - start
    step()
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    pipe.send(json.dumps({"first": first, "seconds": statistics.median(seconds), "memory": memory}))


def main(options: Options) -> None:
    """Print one row for each framework, batch and precision."""
    context = multiprocessing.get_context("spawn")
    print(f"{'':<12} {'precision':<15} {'px':>4} {'batch':>5} {'cells/s':>8} {'first step s':>12} {'peak GiB':>8}")
    for precision in options.precisions:
        for count in options.batches:
            for name, make in (("tensorflow", tensorflow_step), ("torch", torch_step)):
                if options.only not in ("", name):
                    continue
                receive, send = context.Pipe(duplex=False)
                arguments = (make, options.size, count, precision, options.steps, send)
                process = context.Process(target=measure, args=arguments)
                process.start()
                send.close()
                try:
                    found = json.loads(receive.recv())
                except EOFError:
                    print(f"{name:<12} {precision:<15} failed (see above)")
                    continue
                finally:
                    process.join()
                row = f"{count / found['seconds']:>8.1f} {found['first']:>12.1f} {found['memory']:>8.2f}"
                print(f"{name:<12} {precision:<15} {options.size:>4} {count:>5} {row}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options))

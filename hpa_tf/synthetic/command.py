"""`python -m hpa_tf.synthetic [generate|bench|statistics|sheet]`: make a synthetic data set, or look at one."""

import sys
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from hpa_tf import files
from hpa_tf.errors import HpaError
from hpa_tf.synthetic import bench, dataset
from hpa_tf.synthetic.config import SyntheticConfig
from hpa_tf.worker_processes import num_cores


@dataclass(frozen=True)
class Generate:
    """Write fields of view, weak image labels, masks and the truth of every cell (the default command)."""

    out: str
    """Folder to write to."""
    num_images: int = 100
    """Number of images; a larger number later only adds images."""
    workers: int = field(default_factory=num_cores)
    """Number of processes; the result does not depend on it."""
    config: tyro.conf.OmitArgPrefixes[SyntheticConfig] = field(default_factory=SyntheticConfig)

    def run(self) -> None:
        """Write the data set."""
        dataset.write(self.config, self.out, self.num_images, self.workers)
        print(f"{self.num_images} images with masks, labels and the truth of every cell: {self.out}")


@dataclass(frozen=True)
class Bench:
    """Write the bench: the training and the test set that tables of results use (OUT/train, OUT/test)."""

    out: str
    """Folder to write to."""
    workers: int = field(default_factory=num_cores)
    """Number of processes; the result does not depend on it."""

    def run(self) -> None:
        """Write both data sets."""
        bench.write(self.out, self.workers)


@dataclass(frozen=True)
class Statistics:
    """Print what a synthetic data set holds beside the numbers of real images."""

    folder: Annotated[str, tyro.conf.Positional]
    """A folder that `generate` wrote."""
    real: str | None = None
    """Folder of real images (searched for `{ID}_{channel}.png`), whose grey levels are printed too."""

    def run(self) -> None:
        """Print the tables."""
        from hpa_tf.synthetic import statistics

        print(statistics.report(self.folder, self.real))


@dataclass(frozen=True)
class Sheet:
    """Draw a contact sheet: six cells of each class, red-green-blue and green alone."""

    out: str
    """PNG file to write."""
    seed: int = 0
    """Other cells."""
    num_cells: int = 6
    """Cells of each class."""

    def run(self) -> None:
        """Draw and write the sheet."""
        from hpa_tf.synthetic import sheet

        sheet.write(self.out, self.seed, self.num_cells)


COMMANDS = {"generate": Generate, "bench": Bench, "statistics": Statistics, "sheet": Sheet}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return the exit code."""
    arguments = files.expand_home(arguments)
    name = arguments[0] if arguments and arguments[0] in COMMANDS else "generate"
    rest = arguments[1:] if arguments and arguments[0] in COMMANDS else arguments
    try:
        command = tyro.cli(COMMANDS[name], args=rest, prog=f"python -m hpa_tf.synthetic {name}")
        with files.full_disk_explained("--out"):
            command.run()
    except HpaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0

"""The same units of work on Apache Beam: a cluster's workers write the shards that this machine's would.

Each worker needs this package, the images and the data folder under the paths that the command names (a shared disk or
an object store). Pixels never travel between workers: a unit goes in, what its sidecar says comes out.
"""

from collections.abc import Iterator, Sequence

from hpa_tf import beam
from hpa_tf.errors import InputError
from hpa_tf.worker_processes import use_one_thread
from tfrecords_builder.field_shards import run_unit
from tfrecords_builder.image import Settings
from tfrecords_builder.plan import Unit
from tfrecords_builder.pool import Progress
from tfrecords_builder.unit import UnitResult, read_sidecar


def run_units_on_beam(
    units: Sequence[Unit],
    settings: Settings,
    num_workers: int,
    progress: Progress,
    runner: str = "DirectRunner",
    beam_options: Sequence[str] = (),
) -> Iterator[tuple[Unit, UnitResult]]:
    """Yield each unit with its result, after the pipeline has ended.

    Args:
        units: Units to build.
        settings: See `Settings`.
        num_workers: Workers of the DirectRunner; other runners are told by their options.
        progress: Told of each image, at the end; the number of its cells is not known then.
        runner: Beam's name of the runner.
        beam_options: Its command line.

    Raises:
        InputError: Beam is missing, its options cannot be used, the pipeline failed, or a unit was lost.
    """
    beam.run_each(_build, range(len(units)), (tuple(units), settings), runner, beam_options, num_workers)
    for unit in units:
        result = read_sidecar(settings.out, unit)
        if result is None or result.fingerprint != unit.fingerprint:
            found = f"{unit.name} was not written though the pipeline ended"
            raise InputError(runner, found, f"{len(units)} units", "run the same command again")
        for _ in unit.images:
            progress(0)
        yield unit, result


def _build(index: int, units: tuple[Unit, ...], settings: Settings) -> str:
    use_one_thread()
    run_unit(units[index], settings, lambda *_: None)
    return units[index].name

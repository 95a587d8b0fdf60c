"""The same units of work on Apache Beam: a cluster's workers write the shards that this machine's would.

Each worker needs this package, the images and the data folder under the paths that the command names (a shared disk or
an object store). Pixels never travel between workers: a unit goes in, what its sidecar says comes out.
"""

from collections.abc import Iterator, Sequence

from hpa_tf.errors import InputError
from tfrecords_builder.image import Settings
from tfrecords_builder.plan import Unit
from tfrecords_builder.pool import Progress, use_one_thread
from tfrecords_builder.unit import UnitResult, build_unit, read_sidecar


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
    options = _pipeline_options(runner, beam_options, num_workers)
    import apache_beam as beam

    try:
        with beam.Pipeline(runner=runner, options=options) as pipeline:
            pipeline | beam.Create(range(len(units))) | beam.Reshuffle() | beam.Map(_build, tuple(units), settings)
    except Exception as error:  # a worker's error comes back as the runner's own, with the text inside
        last = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise InputError(runner, last, "a pipeline that ends", "mend the cause, then run the same command") from error
    for unit in units:
        result = read_sidecar(settings.out, unit)
        if result is None or result.fingerprint != unit.fingerprint:
            found = f"{unit.name} was not written though the pipeline ended"
            raise InputError(runner, found, f"{len(units)} units", "run the same command again")
        for _ in unit.images:
            progress(0)
        yield unit, result


def _pipeline_options(runner: str, beam_options: Sequence[str], num_workers: int):
    if any("multi_threading" in option for option in beam_options):
        found = "direct_running_mode multi_threading"
        fix = "use --direct_running_mode=multi_processing or in_memory"
        raise InputError("--beam-options", found, "a mode that loses no records (this one does)", fix)
    try:
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise InputError(f"--runner {runner}", "no apache_beam", "the extra [beam]", "pip install '.[beam]'") from error
    flags = list(beam_options)
    if runner == "DirectRunner":
        if not any("direct_running_mode" in flag for flag in flags):
            flags.append(f"--direct_running_mode={'multi_processing' if num_workers > 1 else 'in_memory'}")
        if not any("direct_num_workers" in flag for flag in flags):
            flags.append(f"--direct_num_workers={num_workers}")
    return PipelineOptions(flags)


def _build(index: int, units: tuple[Unit, ...], settings: Settings) -> str:
    use_one_thread()
    build_unit(units[index], settings, lambda *_: None)
    return units[index].name

"""One function over many items on Apache Beam's runners; what is written, and whether all of it was, is the caller's.

Workers need this package, and every file under the path that the main process knows. Extra: [beam].
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from hpa_tf.errors import InputError

LOCAL = "local"
"""Name of the runner that is none: this machine, without Beam."""


def run_each(
    function: Callable[..., None],
    items: Iterable[Any],
    shared: Sequence[Any],
    runner: str,
    beam_options: Sequence[str],
    num_workers: int,
) -> None:
    """Call `function(item, *shared)` for each item, anywhere, in any order; return when the pipeline has ended.

    A runner may call it again for an item, after a fault or to be faster.

    Args:
        function: Of a module that workers can import.
        items: Picklable.
        shared: Picklable; what every call gets.
        runner: Beam's name of the runner.
        beam_options: Its command line.
        num_workers: Workers of the DirectRunner; other runners are told by their options.

    Raises:
        InputError: Beam is missing, its options cannot be used, or the pipeline failed.
    """
    options = pipeline_options(runner, beam_options, num_workers)
    import apache_beam as beam

    try:
        with beam.Pipeline(runner=runner, options=options) as pipeline:
            pipeline | beam.Create(list(items)) | beam.Reshuffle() | beam.Map(function, *shared)
    except Exception as error:  # a worker's error comes back as the runner's own, with the text inside
        last = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise InputError(runner, last, "a pipeline that ends", "mend the cause, then run the same command") from error


def pipeline_options(runner: str, beam_options: Sequence[str], num_workers: int):
    """Return Beam's options of a pipeline; arguments as of `run_each`.

    Raises:
        InputError: Beam is missing, or its options cannot be used.
    """
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

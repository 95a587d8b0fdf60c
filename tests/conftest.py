"""What several test files share: the devices, worker processes, and the order in which the files run."""

import gc
import os

import pytest

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
"""Tests run on the CPU wherever they run: they compare bytes of float32 runs, and a GPU takes float16 and is not exact
twice. CUDA_VISIBLE_DEVICES=0 in the environment lets them see one."""

LONGEST = (
    *("test_training_views", "test_team_systems", "test_documented_commands", "test_training_distribution"),
    *("test_serving_operations", "test_prediction", "test_backbones", "test_starter", "test_ladder", "test_segmenting"),
    *("test_interrupts", "test_second_stage", "test_evaluation", "test_training_resume", "test_labels_benchmark"),
    *("test_training", "test_grading_browser", "test_models", "test_builder_faults", "test_out_of_fold"),
    *("test_member_weights", "test_views", "test_prediction_sources", "test_odd_images", "test_adapting"),
    *("test_metric_oracle", "test_lite0"),
)
"""Files whose tests take longest: begun last, one of them would run alone at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort tests by files, the longest first; all else stays in order."""
    order = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


def pytest_collection_finish() -> None:
    """Let the collector leave alone what was imported: each training collects, and looked at them all."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def pool():
    """Return worker processes for all tests of a file: starting some takes seconds."""
    from hpa_tf.prediction.workers import Workers

    with Workers(2) as workers:
        yield workers

"""The metric: hand-checked cases, a second implementation by brute force, and mutations that must be noticed."""

import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from metric_cases import random_case

from hpa_tf.classes import NUM_CLASSES
from hpa_tf.errors import InputError
from hpa_tf.evaluation import matching, metric
from hpa_tf.evaluation.bootstrap import bootstrap, draw_images, interval
from hpa_tf.evaluation.matching import ImageDetections, ImageTruth, MetricSettings, Outcome
from hpa_tf.evaluation.metric import average_precision, mean_average_precision, precision_recall, true_cell_table
from hpa_tf.imaging import run_length

ALL = MetricSettings()
PRESENT = MetricSettings(verified="present")


def bar(start, stop, size=(1, 100)):
    """A mask whose overlaps can be read off: pixels start..stop of a row."""
    mask = np.zeros(size, bool)
    mask[0, start:stop] = True
    return run_length.encode(mask)


def image(true, found, image_id="a", group_of=None, size=(1, 100)):
    """Make an image from true cells (start, stop, classes) and detections (start, stop, class, confidence)."""
    labels = np.zeros((len(true), NUM_CLASSES), bool)
    for row, (_, _, classes) in zip(labels, true, strict=True):
        row[list(classes)] = True
    groups = np.zeros(len(true), bool) if group_of is None else np.array(group_of)
    masks = [bar(start, stop, size) for start, stop, _ in true]
    truth = ImageTruth(image_id, size, masks, np.arange(1, len(true) + 1), labels, groups)
    spans = list(dict.fromkeys((start, stop) for start, stop, _, _ in found))
    index = np.array([spans.index((start, stop)) for start, stop, _, _ in found], np.int64)
    class_ids = np.array([row[2] for row in found], np.int64)
    confidences = np.array([row[3] for row in found], float)
    return truth, ImageDetections(image_id, [bar(*span, size) for span in spans], index, class_ids, confidences)


def evaluate(pairs, settings=ALL, match=matching, pool=metric):
    matches = []
    for truth, found in pairs:
        overlaps = match.overlap(truth, found.masks, settings)
        matches.append(match.match_image(truth, found, overlaps, settings))
    return pool.Evaluation(matches)


def brute_force(pairs, settings):
    """METHODS 2, one detection and one pixel set at a time; ties: file order."""
    pool = {class_id: [] for class_id in range(NUM_CLASSES)}
    num_truth = dict.fromkeys(range(NUM_CLASSES), 0)
    for truth, found in pairs:
        true = [set(np.flatnonzero(run_length.decode(mask))) for mask in truth.masks]
        masks = [set(np.flatnonzero(run_length.decode(mask))) for mask in found.masks]
        for class_id in range(NUM_CLASSES):
            own = [g for g in range(len(true)) if truth.labels[g, class_id]]
            cells = [g for g in own if true[g] and not truth.group_of[g]]
            groups = [g for g in own if true[g] and truth.group_of[g]]
            num_truth[class_id] += len(cells)
            if settings.verified == "present" and not own:
                continue
            taken = set()
            rows = [d for d in range(len(found.class_ids)) if found.class_ids[d] == class_id]
            rows = [d for d in rows if masks[found.mask_index[d]]]
            verdicts = {}
            for d in sorted(rows, key=lambda d: -found.confidences[d]):
                mask = masks[found.mask_index[d]]
                ious = [len(mask & true[g]) / len(mask | true[g]) for g in cells]
                best = ious.index(max(ious)) if ious else None
                right = best is not None and ious[best] >= settings.iou_threshold and cells[best] not in taken
                if right:
                    taken.add(cells[best])
                elif any(len(mask & true[g]) / len(mask) >= settings.iou_threshold for g in groups):
                    continue
                verdicts[d] = right
            pool[class_id] += [(found.confidences[d], verdicts[d]) for d in rows if d in verdicts]
    ap = np.full(NUM_CLASSES, np.nan)
    for class_id, total in num_truth.items():
        if not total:
            continue
        ranked = [right for _, right in sorted(pool[class_id], key=lambda row: -row[0])]
        points = [(sum(ranked[:k]) / total, sum(ranked[:k]) / k) for k in range(1, len(ranked) + 1)]
        area, last = 0.0, 0.0
        for k, (recall, _) in enumerate(points):
            area += (recall - last) * max(precision for _, precision in points[k:])
            last = recall
        ap[class_id] = area
    return ap


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("settings", [ALL, PRESENT, MetricSettings(iou_threshold=0.3)], ids=["all", "present", "0.3"])
def test_equals_brute_force(settings, ties):
    values = []
    for seed in range(60):
        case = random_case(np.random.default_rng([seed, ties]), ties)
        found = evaluate(case, settings).average_precisions()
        np.testing.assert_allclose(found, brute_force(case, settings), rtol=1e-12, atol=1e-15)
        values.append(found)
    values = np.array(values)
    assert ((values > 0) & (values < 1)).sum() > 50


# Hand-checked cases: (pairs, settings, class id, AP). Each is sensitive to one rule.
TWO = [(0, 10, [3]), (50, 60, [3])]
HAND_CHECKED = {
    "a duplicate between two hits": (
        [image(TWO, [(0, 10, 3, 0.9), (0, 9, 3, 0.8), (50, 60, 3, 0.7)])],
        ALL,
        3,
        0.5 + 0.5 * 2 / 3,
    ),
    "a duplicate after the last hit": (
        [image(TWO, [(0, 10, 3, 0.9), (50, 60, 3, 0.8), (0, 9, 3, 0.7)])],
        ALL,
        3,
        1.0,
    ),
    "IoU 0.6 itself matches": ([image([(0, 10, [3])], [(0, 6, 3, 0.9)])], ALL, 3, 1.0),
    "IoU just below 0.6": ([image([(0, 100, [3])], [(0, 59, 3, 0.9)])], ALL, 3, 0.0),
    "no second choice": (  # the second detection prefers the first cell, which is taken, and could match the other
        [image([(0, 20, [3]), (4, 24, [3])], [(0, 20, 3, 0.9), (1, 20, 3, 0.8)])],
        ALL,
        3,
        0.5,
    ),
    "the more confident detection takes the cell, whatever the file order": (
        [image([(0, 10, [3])], [(0, 9, 3, 0.1), (0, 10, 3, 0.9)])],
        ALL,
        3,
        1.0,
    ),
    "a class that no cell of the image has is wrong": (
        [image([(0, 10, [3])], [(0, 10, 3, 0.5)]), image([(0, 10, [4])], [(0, 10, 3, 0.9)], "b")],
        ALL,
        3,
        0.5,
    ),
    "unless only present classes are verified": (
        [image([(0, 10, [3])], [(0, 10, 3, 0.5)]), image([(0, 10, [4])], [(0, 10, 3, 0.9)], "b")],
        PRESENT,
        3,
        1.0,
    ),
    "a missed cell": ([image(TWO, [(0, 10, 3, 0.9)])], ALL, 3, 0.5),
    "true cells without detections": ([image(TWO, [])], ALL, 3, 0.0),
    "an empty mask is no detection": (
        [image([(0, 10, [3])], [(5, 5, 3, 0.9), (0, 10, 3, 0.5)])],
        ALL,
        3,
        1.0,
    ),
    "a detection in a group-of region is ignored": (
        [image([(0, 10, [3]), (40, 90, [3])], [(50, 60, 3, 0.9), (0, 10, 3, 0.5)], group_of=[False, True])],
        ALL,
        3,
        1.0,
    ),
    "a group-of region itself is no cell": (
        [image([(0, 10, [3]), (40, 90, [3])], [(40, 90, 3, 0.9), (0, 10, 3, 0.5)], group_of=[False, True])],
        ALL,
        3,
        1.0,
    ),
    "half out of a group-of region it is wrong": (
        [image([(0, 10, [3]), (40, 90, [3])], [(35, 45, 3, 0.9), (0, 10, 3, 0.5)], group_of=[False, True])],
        ALL,
        3,
        0.5,
    ),
    "images are pooled by confidence": (
        [
            image([(0, 10, [3])], [(0, 10, 3, 0.2), (50, 60, 3, 0.1)]),
            image([(0, 10, [3])], [(50, 60, 3, 0.9), (0, 10, 3, 0.8)], "b"),
        ],
        ALL,
        3,
        2 / 3,
    ),
    "a better precision later lifts the envelope": (
        [image([*TWO, (80, 90, [3])], [(20, 30, 3, 0.9), (0, 10, 3, 0.8), (50, 60, 3, 0.7), (80, 90, 3, 0.6)])],
        ALL,
        3,
        0.75,
    ),
}


@pytest.mark.parametrize("name", HAND_CHECKED)
def test_hand_checked(name):
    pairs, settings, class_id, expected = HAND_CHECKED[name]
    assert evaluate(pairs, settings).average_precisions()[class_id] == pytest.approx(expected, abs=1e-12)
    assert brute_force(pairs, settings)[class_id] == pytest.approx(expected, abs=1e-12)


MUTATIONS = {
    "threshold 0.5": (matching, "iou_threshold: float = 0.6", "iou_threshold: float = 0.5"),
    "threshold not met by itself": (
        matching,
        "hits = np.flatnonzero(iou.max(axis=1) >= settings",
        "hits = np.flatnonzero(iou.max(axis=1) > settings",
    ),
    "duplicates are right": (matching, "outcome[hits] = Outcome.DUPLICATE", "outcome[hits] = Outcome.TRUE_POSITIVE"),
    "duplicates are dropped": (matching, "outcome[hits] = Outcome.DUPLICATE", "outcome[hits] = Outcome.IGNORED"),
    "file order instead of confidence in an image": (matching, "-detections.confidences[own]", "own"),
    "the least confident first in the pool": (metric, "-self.confidences[own]", "self.confidences[own]"),
    "unverified classes are counted": (matching, 'if settings.verified == "present":', "if False:"),
    "only present classes are counted": (matching, 'if settings.verified == "present":', "if True:"),
    "empty masks are counted": (matching, "areas[detections.mask_index] > 0", "areas[detections.mask_index] >= 0"),
    "group-of regions are cells": (matching, "np.flatnonzero(has_class & ~group_of)", "np.flatnonzero(has_class)"),
    "group-of regions by IoU": (matching, "overlaps.inside[np", "overlaps.iou[np"),
    "group-of regions are counted as true cells": (matching, "labels & ~truth.group_of[:, None],", "labels,"),
    "missed cells are forgotten": (metric, "right / num_truth", "right / right.max(initial=1)"),
    "no envelope": (metric, "np.maximum.accumulate(np", "np.positive(np"),
    "ignored detections are counted": (metric, " & (self.outcomes != Outcome.IGNORED)", ""),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutations_of_the_rules_are_noticed(name):
    """Changes the source of one rule and asks whether any hand-checked case sees it."""
    module, old, new = MUTATIONS[name]
    mutated = _mutated(module, old, new)
    modules = {"match": mutated} if module is matching else {"pool": mutated}
    seen = []
    for pairs, settings, class_id, expected in HAND_CHECKED.values():
        settings = mutated.MetricSettings(settings.verified) if module is matching else settings
        with np.errstate(all="ignore"):
            found = evaluate(pairs, settings, **modules).average_precisions()[class_id]
        seen.append(not math.isclose(found, expected, abs_tol=1e-9))
    assert any(seen)


def _mutated(module, old, new):
    source = Path(module.__file__).read_text()
    assert source.count(old) == 1, f"{module.__name__} holds {source.count(old)} times: {old}"
    spec = importlib.util.spec_from_loader(f"mutated_{module.__name__.rpartition('.')[2]}", loader=None)
    mutated = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = mutated  # dataclasses look their module up
    exec(compile(source.replace(old, new), module.__file__, "exec"), mutated.__dict__)
    return mutated


def test_kinds_of_false_positives_and_fates_of_cells():
    true = [(0, 10, [3]), (20, 30, [4]), (40, 50, [3])]
    found = [(0, 10, 3, 0.9), (0, 9, 3, 0.8), (20, 30, 3, 0.7), (60, 70, 3, 0.6), (44, 54, 3, 0.5)]
    truth, detections = image(true, found)
    matches = matching.match_image(truth, detections, matching.overlap(truth, detections.masks, ALL), ALL)
    names = [Outcome(outcome).name for outcome in matches.outcomes]
    assert names == ["TRUE_POSITIVE", "DUPLICATE", "WRONG_CLASS", "BAD_MASK", "BAD_MASK"]
    table = true_cell_table([matches], 0.6)
    assert table[["cell", "class_id", "fate"]].values.tolist() == [
        [1, 3, "found"],
        [2, 4, "not claimed"],
        [3, 3, "no mask"],
    ]
    assert table["confidence"][0] == 0.9
    np.testing.assert_allclose(table["best_iou"], [1, 1, 6 / 14])


def test_ties_are_ranked_by_file_order():
    true, right, wrong = [(0, 10, [3])], (0, 10, 3, 0.5), (50, 60, 3, 0.5)
    assert evaluate([image(true, [right, wrong])]).average_precisions()[3] == 1
    assert evaluate([image(true, [wrong, right])]).average_precisions()[3] == 0.5
    first, second = image([], [wrong], "a"), image(true, [right], "b")
    assert evaluate([first, second]).average_precisions()[3] == 0.5
    assert evaluate([second, first]).average_precisions()[3] == 1


def test_class_without_truth_is_left_out_of_the_mean():
    ap = evaluate([image([(0, 10, [3])], [(0, 10, 3, 0.5), (0, 10, 7, 0.9)])]).average_precisions()
    assert ap[3] == 1
    assert np.isnan(np.delete(ap, 3)).all()
    assert mean_average_precision(ap) == 1
    assert math.isnan(mean_average_precision(np.full(NUM_CLASSES, np.nan)))


def test_at_most_ten_thousand_detections_of_a_class_in_an_image(monkeypatch):
    monkeypatch.setattr(matching, "MAX_DETECTIONS", 2)
    pairs = [image(TWO, [(0, 10, 3, 0.1), (20, 30, 3, 0.8), (50, 60, 3, 0.9)])]
    assert evaluate(pairs).average_precisions()[3] == 0.5


def test_boxes_overlap_where_masks_do_not():
    frame, corner = np.zeros((10, 10), bool), np.zeros((10, 10), bool)
    frame[0], frame[:, 0] = True, True
    corner[9], corner[:, 9] = True, True
    labels = np.eye(NUM_CLASSES, dtype=bool)[[3]]
    truth = ImageTruth("a", (10, 10), [run_length.encode(frame)], np.array([1]), labels, np.array([False]))
    found = ImageDetections("a", [run_length.encode(corner)], np.array([0]), np.array([3]), np.array([0.5]))
    assert evaluate([(truth, found)]).average_precisions()[3] == 0
    assert evaluate([(truth, found)], MetricSettings(geometry="boxes")).average_precisions()[3] == 1


def test_mask_of_another_size_is_an_error():
    truth, _ = image(TWO, [])
    with pytest.raises(InputError, match="50 x 1 px"):
        matching.overlap(truth, [bar(0, 10, (1, 50))], ALL)


@pytest.mark.parametrize("threshold", [0, -1, 1.1, float("nan")])
def test_threshold_out_of_range_is_an_error(threshold):
    with pytest.raises(InputError, match="iou-threshold"):
        MetricSettings(iou_threshold=threshold)


def test_no_images_at_all():
    assert np.isnan(evaluate([]).average_precisions()).all()


def test_average_precision_falls_when_a_wrong_detection_is_added_and_never_leaves_0_1():
    rng = np.random.default_rng(0)
    for _ in range(200):
        right = rng.random(rng.integers(1, 30)) < 0.5
        total = int(right.sum() + rng.integers(1, 4))
        before = average_precision(*precision_recall(right, total))
        wrong_added = np.insert(right, rng.integers(right.size + 1), False)
        assert 0 <= average_precision(*precision_recall(wrong_added, total)) <= before <= 1


def test_bootstrap_equals_scoring_repeated_images():
    """A resample is the evaluation of its images, each as often as it was drawn, copies side by side."""
    case = random_case(np.random.default_rng(5)) + random_case(np.random.default_rng(6))
    samples = draw_images(len(case), 30, seed=1)
    assert (samples.sum(axis=1) == len(case)).all()
    resampled = bootstrap(evaluate(case), samples)
    for number, counts in enumerate(samples):
        repeated = [pair for pair, count in zip(case, counts, strict=True) for _ in range(count)]
        ap = evaluate(repeated).average_precisions()
        np.testing.assert_allclose(resampled.ap[number], ap, rtol=1e-12)
        assert resampled.mean_ap[number] == pytest.approx(mean_average_precision(ap))


def test_interval_of_unbiased_values_is_their_percentiles_and_of_biased_ones_moves():
    values = np.random.default_rng(0).normal(0.5, 0.1, 20_000)
    np.testing.assert_allclose(interval(values, 0.5), (0.5 - 0.196, 0.5 + 0.196), atol=0.01)
    low, high = interval(values, 0.45)
    assert low < 0.25
    assert high < 0.61
    assert interval(np.full(9, 0.3), 0.3) == (0.3, 0.3)
    assert np.isnan(interval(np.full(9, np.nan), 0.3)).all()


def test_interval_covers_the_truth_about_as_often_as_it_says():
    """Many small data sets of known expected AP: the 95 % interval must hold it in most of them."""
    rng = np.random.default_rng(0)

    def data_set(num_images):
        rows = []
        for number in range(num_images):
            right = rng.random() < 0.6
            rows.append(image([(0, 10, [3])], [(0, 10, 3, rng.normal(right)), (50, 60, 3, rng.normal())], str(number)))
        return evaluate(rows)

    expected = np.mean([data_set(60).average_precisions()[3] for _ in range(40)])
    hits = 0
    for _ in range(40):
        evaluation = data_set(60)
        resampled = bootstrap(evaluation, draw_images(60, 200)).ap[:, 3]
        low, high = interval(resampled, evaluation.average_precisions()[3])
        hits += low <= expected <= high
    assert hits >= 32

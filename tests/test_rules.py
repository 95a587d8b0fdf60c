"""The border and outlier rules against the formulas, written out once more cell by cell."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpa_tf.errors import InputError
from hpa_tf.imaging import rules
from hpa_tf.imaging.rules import CLEANING_BORDER, PREDICTION_BORDER, border_values, cell_values, outlier_factors


def table_of(**columns) -> pd.DataFrame:
    size = len(next(iter(columns.values())))
    defaults = {"image_id": ["x"] * size, "border_ud": [0.9] * size, "border_lr": [0.9] * size}
    numbers = {name: [100] * size for name in ("nucleus_area", "nucleus_blue", "sum_red", "sum_blue", "sum_yellow")}
    return pd.DataFrame({**defaults, **numbers, **columns})


@pytest.mark.parametrize(
    ("ratio", "prediction", "cleaning"),
    [
        (0.31, 1.0, 1.0),
        (0.3, (3.33 * 0.3) ** 0.1, 1.0),
        (0.21, (3.33 * 0.21) ** 0.1, 1.0),
        (0.2, (3.33 * 0.2) ** 0.1, 0.001),
        (0.011, (3.33 * 0.011) ** 0.1, 0.001),
        (0.01, 0.001, 0.001),
        (0.0, 0.001, 0.001),
    ],
)
def test_border_value_at_each_threshold(ratio, prediction, cleaning):
    for name in ("border_ud", "border_lr"):
        table = table_of(**{name: [ratio]})
        assert border_values(table, PREDICTION_BORDER)[0] == pytest.approx(prediction, abs=1e-12)
        assert border_values(table, CLEANING_BORDER)[0] == pytest.approx(cleaning, abs=1e-12)
    both = border_values(table_of(border_ud=[ratio], border_lr=[ratio]))
    assert both[0] == pytest.approx(prediction**2, abs=1e-12)


def test_no_nucleus_or_no_blue_in_it_is_a_hundredth():
    table = table_of(nucleus_area=[0, 5, 5], nucleus_blue=[0, 0, 9], border_ud=[0.0, 0.9, 0.9])
    assert border_values(table).tolist() == [0.01, 0.01, 1.0]


def test_outlier_means_leave_condemned_cells_out_and_each_image_stands_alone():
    table = table_of(
        image_id=["a", "a", "a", "b", "b", "c"],
        border_ud=[0.9, 0.9, 0.0, 0.9, 0.9, 0.0],
        sum_red=[1000, 70, 10**9, 10, 10, 0],
    )
    # a: mean of the first two = 535, least 41.2; b: equal; c: no cell counts, the rule is skipped
    assert cell_values(table).tolist() == [1, 1, 0.001, 1, 1, 0.001]
    table.loc[1, "sum_red"] = 40  # mean 520, least 40.04
    assert cell_values(table).tolist() == [1, 0.001, 0.001, 1, 1, 0.001]


def test_blue_times_yellow():
    table = table_of(sum_blue=[100, 100, 10], sum_yellow=[100, 100, 49])
    # products 10000, 10000, 490: the mean is 6830, the least 341.5
    assert outlier_factors(table, border_values(table)).tolist() == [1, 1, 1]
    table.loc[2, "sum_yellow"] = 33
    assert outlier_factors(table, border_values(table)).tolist() == [1, 1, 0.001]


def reference(rows, full, low, cut):
    """Straight from the formulas: one image, one cell after the other."""

    def f(r):
        if r > full:
            return 1.0
        return (3.33 * r) ** 0.1 if r > low else cut

    values = [
        0.01 if c["nucleus_area"] == 0 or c["nucleus_blue"] == 0 else f(c["border_ud"]) * f(c["border_lr"])
        for c in rows
    ]
    counted = [c for c, v in zip(rows, values, strict=True) if v > 0.01]
    if not counted:
        return values
    red_min = 0.077 * np.mean([c["sum_red"] for c in counted])
    product_min = 0.05 * np.mean([float(c["sum_blue"]) * c["sum_yellow"] for c in counted])
    low_cell = [c["sum_red"] < red_min or float(c["sum_blue"]) * c["sum_yellow"] < product_min for c in rows]
    return [v * 0.001 if is_low else v for v, is_low in zip(values, low_cell, strict=True)]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30))
def test_values_agree_with_the_formulas(seed, size):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "image_id": rng.choice(["a", "b", "c"], size),
            "border_ud": rng.choice([0, 0.005, 0.05, 0.25, 0.8], size),
            "border_lr": rng.choice([0, 0.15, 0.8], size),
            "nucleus_area": rng.integers(0, 3, size),
            "nucleus_blue": rng.integers(0, 3, size),
            "sum_red": (10 ** rng.uniform(0, 10, size)).astype(np.int64),
            "sum_blue": (10 ** rng.uniform(0, 10, size)).astype(np.int64),
            "sum_yellow": (10 ** rng.uniform(0, 10, size)).astype(np.int64),
        }
    )
    for rule, numbers in ((PREDICTION_BORDER, (0.3, 0.01, 0.001)), (CLEANING_BORDER, (0.2, 0.2, 0.001))):
        found = pd.Series(cell_values(table, rule))
        for _, rows in table.groupby("image_id"):
            expected = reference(rows.to_dict("records"), *numbers)
            np.testing.assert_allclose(found[rows.index], expected, rtol=1e-12)


# -- the other teams' rules -------------------------------------------------------------------------------------------


def cells_of_an_image(**columns) -> pd.DataFrame:
    """Return 5 cells in an image of 100x100 px; the last two touch the frame."""
    box = {"top": [10, 10, 50, 0, 40], "left": [10, 60, 10, 40, 70], "bottom": [40, 40, 90, 20, 80]}
    box |= {"right": [40, 90, 40, 60, 100], "height": 100, "width": 100}
    return pd.DataFrame({"image_id": "a", "nucleus_area": [100, 120, 80, 49, 60], **box} | columns)


def test_small_nuclei_at_the_frame_are_removed():
    """The medians of the others are 90 (60, 80, 100, 120) and 90 (49, 80, 100, 120): half of it is 45."""
    table = cells_of_an_image(nucleus_area=[100, 120, 80, 44, 60])
    np.testing.assert_array_equal(rules.small_nucleus_factors(table, rules.SmallNucleusRule()), [1, 1, 1, 0, 1])
    table = cells_of_an_image(nucleus_area=[100, 120, 10, 46, 60])  # small, but inside
    np.testing.assert_array_equal(rules.small_nucleus_factors(table, rules.SmallNucleusRule()), [1] * 5)
    for name, value in (("top", 1), ("left", 1), ("bottom", 99), ("right", 99)):
        inside = cells_of_an_image(nucleus_area=[100, 120, 80, 44, 60])
        inside[name] = inside[name].clip(lower=value) if name in ("top", "left") else inside[name].clip(upper=value)
        expected = 0 if name != "top" else 1
        assert rules.small_nucleus_factors(inside, rules.SmallNucleusRule())[3] == expected


def test_cells_without_a_nucleus_are_removed_and_count_in_no_median():
    table = cells_of_an_image(nucleus_area=[0, 120, 0, 50, 0])
    rule = rules.SmallNucleusRule()
    np.testing.assert_array_equal(rules.small_nucleus_factors(table, rule), [0, 1, 0, 0, 0])
    np.testing.assert_array_equal(
        rules.small_nucleus_factors(table, rules.SmallNucleusRule(no_nucleus=False)), [1, 1, 1, 0, 1]
    )
    alone = cells_of_an_image(nucleus_area=[0, 0, 0, 50, 0])
    assert rules.small_nucleus_factors(alone, rule)[3] == 1  # there is nothing to compare it with
    two = pd.concat([table, alone.assign(image_id="b")], ignore_index=True)
    np.testing.assert_array_equal(rules.small_nucleus_factors(two, rule), [0, 1, 0, 0, 0] + [0, 0, 0, 1, 0])


def test_a_factor_for_cells_that_are_not_whole():
    table = cells_of_an_image(completeness=[0.9, 0.2, 0.19, np.nan, 0.0])
    np.testing.assert_allclose(rules.factors_of(table, rules.Factor()), [1, 1, 0.3, 1, 0.3])
    with pytest.raises(InputError, match=r"no column 'mitosis'"):
        rules.factors_of(table, rules.Factor("mitosis"))

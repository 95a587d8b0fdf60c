"""Folds from a table: what is built is what the table says, and what cannot be is named with its lines."""

import json

import numpy as np
import pandas as pd
import pytest
from builder_inputs import write_inputs

from hpa_tf import cell_table
from hpa_tf.errors import HpaWarning, InputError
from tfrecords_builder.command import main
from tfrecords_builder.fold_table import read_folds
from tfrecords_builder.sources import LabelledImage

IMAGES = [LabelledImage(f"i{k}", 0, None, (0,), {"line": f"l{k // 2}"}) for k in range(6)]


def table(path, text):
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("text", "group_by", "expected"),
    [
        ("ID,fold\n" + "".join(f"i{k},{k % 3}\n" for k in range(6)), None, [0, 1, 2, 0, 1, 2]),
        ("fold;id\n" + "".join(f"{k % 2}.0;i{k}\n" for k in reversed(range(6))), None, [0, 1, 0, 1, 0, 1]),
        ("line\tFold\nl0\t1\nl1\t0\nl2\t1\n", "line", [1, 1, 0, 0, 1, 1]),
        ("ID,fold\n" + "".join(f"i{k},{k // 2 % 2}\n" for k in range(6)), "line", [0, 0, 1, 1, 0, 0]),
        ("ID,line,fold\n" + "".join(f"i{k},l{k // 2},{k // 2 % 2}\n" for k in range(6)), "line", [0, 0, 1, 1, 0, 0]),
        ("id,line,fold\n1,l0,1\n2,l1,0\n3,l2,1\n", "line", [1, 1, 0, 0, 1, 1]),
    ],
)
def test_tables_of_ids_and_of_groups(tmp_path, text, group_by, expected):
    assert read_folds(table(tmp_path / "folds.csv", text), IMAGES, group_by) == expected


def test_ids_of_files_and_of_spreadsheets_mean_their_images(tmp_path):
    images = [LabelledImage(name, 0, None, (0,), {"line": f"{name}.0"}) for name in ("7", "12", "a")]
    with pytest.warns(HpaWarning, match="3 ids are read as those of the images they mean, first '7.0' as '7'"):
        assert read_folds(table(tmp_path / "a.csv", "ID,fold\n7.0,1\n12.0,0\na_green.png,1\n"), images, None) == [
            1,
            0,
            1,
        ]
    by_line = table(tmp_path / "b.csv", "line,fold\n7.0,1\n12.0,0\na.0,1\n")
    assert read_folds(by_line, images, "line") == [1, 0, 1]
    twice = table(tmp_path / "c.csv", "ID,fold\n7,1\n12,0\n7.0,1\na,1\n")
    with pytest.warns(HpaWarning), pytest.raises(InputError, match="line 4: '7' a second time, first in line 2"):
        read_folds(twice, images, None)


def test_rows_of_other_images_are_counted(tmp_path):
    text = "ID,fold\n" + "".join(f"i{k},{k % 2}\n" for k in range(9))
    with pytest.warns(HpaWarning, match="3 of 9 rows"):
        assert read_folds(table(tmp_path / "folds.csv", text), IMAGES, None) == [0, 1, 0, 1, 0, 1]


def test_every_fault_is_named_with_its_line(tmp_path):
    text = "ID,fold\ni0,0\n\ni1,one\ni2,-1\n,1\ni0,1\ni3,1.5\ni4,99999\n"
    with pytest.raises(InputError) as raised:
        read_folds(table(tmp_path / "folds.csv", text), IMAGES, None)
    for words in (
        *("7 faults", "line 4: fold 'one' of 'i1'", "line 5: fold '-1' of 'i2'", "line 6: no ID"),
        *("line 7: 'i0' a second time, first in line 2", "line 8: fold '1.5'", "line 9: fold '99999'"),
        *("no row for ID 'i5'", "folds.csv"),
    ):
        assert words in str(raised.value), raised.value


@pytest.mark.parametrize(
    ("text", "group_by", "words"),
    [
        ("ID,split\ni0,0\n", None, r"columns \['ID', 'split'\]"),
        ("name,fold\ni0,0\n", None, "with --group-by"),
        ("ID,fold\n" + "".join(f"i{k},{1 + k % 2}\n" for k in range(6)), None, "no image in fold 0"),
        ("ID,fold\n" + "".join(f"i{k},{k % 2}\n" for k in range(6)), "line", "line 'l0' in folds 0, 1"),
        ("ID,line,fold\n" + "".join(f"i{k},l{k // 2},{k % 2}\n" for k in range(6)), "line", "line 'l0' in folds 0, 1"),
        ("line,fold\nl0,0\nl0,0\nl1,1\nl2,1\n", "line", "'l0' a second time"),
        ("line,fold\nl0,0\nl1,1\n", "line", "no row for line 'l2'"),
        ("ID,fold\n" + "i0,0,1\n" * 30, None, "and [0-9]+ more"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, text, group_by, words):
    with pytest.raises(InputError, match=words):
        read_folds(table(tmp_path / "folds.csv", text), IMAGES, group_by)


def test_a_build_has_the_folds_of_the_table_and_notices_another(tmp_path, capsys):
    inputs = write_inputs(tmp_path, num_images=6, size=32, grid=1)
    wanted = dict(zip(inputs.ids, (2, 0, 1, 1, 0, 2), strict=True))
    folds = tmp_path / "folds.csv"
    table(folds, "ID,fold\n" + "".join(f"{image_id},{fold}\n" for image_id, fold in wanted.items()))
    out = tmp_path / "shards"
    command = [*inputs.arguments(out), "--workers", "1", "--folds-from", str(folds)]
    assert main([*command, "--num-folds", "2"]) == 2 and "2, and 3 folds in" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*command, "--seed", "3"])
    assert "nothing is drawn" in capsys.readouterr().err
    assert main(command) == 0
    cells = cell_table.read(out / "cells.parquet")
    found = cells.drop_duplicates("image_id").set_index("image_id")["fold"]
    pd.testing.assert_series_equal(found.sort_index(), pd.Series(wanted), check_names=False, check_dtype=False)
    manifest = json.loads((out / "dataset.json").read_text())
    assert manifest["num_folds"] == 3 and {shard["fold"] for shard in manifest["shards"]} == {0, 1, 2}
    assert main(command) == 0  # the same table: nothing to do
    table(folds, folds.read_text().replace(f"{inputs.ids[0]},2", f"{inputs.ids[0]},1"))
    assert main(command) == 2 and "option folds_from" in capsys.readouterr().err
    assert main([*command, "--on-change", "rebuild"]) == 0
    cells = cell_table.read(out / "cells.parquet")
    assert set(cells.loc[cells["image_id"] == inputs.ids[0], "fold"]) == {1}
    assert np.isin(cells["fold"], (0, 1, 2)).all()

"""docs/measurements.md is what benchmarks/measurements.py writes from the kept tables, and it says which are older."""

import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import measurements  # noqa: E402

RECORD = measurements.Record("python x.py", "abc1234", "2026-01-02", "a processor, 2 cores", 1.5, "a | b\n1 | 2")


def test_the_page_is_the_one_of_the_kept_tables():
    page = measurements.PAGE
    assert not page.exists() or page.read_text() == measurements.render(measurements.read_records())


def test_a_table_of_another_commit_says_so():
    older = replace(RECORD, commit="0000000", date="2026-01-01")
    page = measurements.render({"loader": RECORD, "metric": older})
    loading, scoring = page.split("## Scoring a submission")
    assert "Of another commit" not in loading and "Of another commit than the newest table (abc1234)" in scoring
    assert RECORD.output in loading and "a processor, 2 cores" in loading


def test_tables_name_benchmarks_that_exist():
    assert all((ROOT / table.command[0]).exists() for table in measurements.TABLES.values())


def test_long_tables_and_those_without_their_files_are_left_out_unless_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measurements, "ROOT", tmp_path)
    everything, named = measurements.Options(), measurements.Options(names=("demo", "heat_maps"))

    def wanted(options):
        return {name for name, table in measurements.TABLES.items() if measurements.is_wanted(name, table, options)}

    assert {"start", "loader"} <= wanted(everything) and not {"demo", "heat_maps", "segmentation"} & wanted(everything)
    assert wanted(named) == {"demo"} and "demo/run/result.json" in capsys.readouterr().err
    (tmp_path / "demo/run").mkdir(parents=True)
    (tmp_path / "demo/run/result.json").touch()
    assert wanted(named) == {"demo", "heat_maps"}

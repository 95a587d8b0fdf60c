"""The journal of grades: nothing acknowledged is lost, nothing is erased, damage is named."""

import errno
import json
import os
import signal
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from hpa_tf import file_lock
from hpa_tf.errors import HpaWarning, InputError
from hpa_tf.grade_agreement import agreement_between, self_agreement, weighted_kappa
from hpa_tf.grade_decisions import Decision, GradedData, Journal
from hpa_tf.grade_journal import Writer, grades_table, read, read_folder

DATA = GradedData("data", "of a build")


def grade(number, cell=1, value=3, **more):
    return Decision(number, "grade", "image", cell, value, **more)


def undo(number, of, cell=1):
    return Decision(number, "undo", "image", cell, replaces=of)


def standing(*decisions):
    journal = Journal(11, "anna", "data")
    for decision in decisions:
        journal.add(decision)
    return [(decision.cell, decision.grade) for decision in journal.standing.values()]


def test_what_stands():
    assert standing(grade(1, 1, 5), grade(2, 2, 4)) == [(1, 5), (2, 4)]
    assert standing(grade(1, 1, 5), grade(2, 2, 4), undo(3, 1)) == [(2, 4)]
    # a correction takes the place of what it corrects, in the order too; undoing it brings that back
    assert standing(grade(1, 1, 5), grade(2, 2, 4), grade(3, 1, 2, replaces=1)) == [(1, 2), (2, 4)]
    assert standing(grade(1, 1, 5), grade(2, 2, 4), grade(3, 1, 2, replaces=1), undo(4, 3)) == [(1, 5), (2, 4)]


@pytest.mark.parametrize(
    "decisions",
    [
        [grade(2)],
        [grade(1, value=6)],
        [grade(1, value=None)],
        [Decision(1, "skip", "image", 1, 3)],
        [Decision(1, "undo", "image", 1)],
        [undo(1, 1)],
        [grade(1), undo(2, 1), undo(3, 1)],
        [grade(1), grade(2, replaces=1), undo(3, 1)],
        [grade(1, cell=1), undo(2, 1, cell=2)],
        [Decision(1, "erase", "image", 1)],
    ],
)
def test_lines_that_do_not_fit_are_refused(decisions):
    with pytest.raises(ValueError):
        standing(*decisions)


def test_lines_come_back_and_a_refused_one_changes_nothing(tmp_path):
    writer = Writer(tmp_path, 11, "anna", DATA)
    writer.append([grade(1, 1, 5, seconds=1.5, time="now"), grade(2, 2, 1, repeat=True)])
    with pytest.raises(ValueError):
        writer.append([grade(3, 3), grade(9, 4)])
    writer.append([undo(3, 1)])
    assert read(writer.path) == writer.journal
    assert [d.number for d in writer.journal.decisions] == [1, 2, 3]
    writer.close()


def test_a_torn_last_line_never_counted(tmp_path):
    writer = Writer(tmp_path, 11, "anna", DATA)
    writer.append([grade(1), grade(2, 2)])
    writer.close()
    whole = Path(writer.path).read_bytes()
    for cut in range(1, len(whole)):
        with open(writer.path, "wb") as stream:
            stream.write(whole[:cut])
        lines = whole[:cut].count(b"\n")
        again = Writer(tmp_path, 11, "anna", DATA)
        assert len(again.journal.decisions) == max(0, lines - 1)
        again.append([grade(max(0, lines - 1) + 1, 7, 4)])
        again.close()
        assert read(again.path).decisions[-1].cell == 7


def test_damage_in_the_middle_is_named(tmp_path):
    writer = Writer(tmp_path, 11, "anna", DATA)
    writer.append([grade(1), grade(2, 2), grade(3, 3)])
    writer.close()
    lines = Path(writer.path).read_text().splitlines(keepends=True)
    changes = (
        *(('"image"', '"../image"'), ('"cell": 2', f'"cell": {1 << 40}'), ('"cell": 2', '"cell": 0')),
        *(('"seconds": null', f'"seconds": {value}') for value in ('"soon"', "-1", "NaN", "Infinity", "true")),
        *(('"repeat": false', '"repeat": "no"'), ('"grade": 3', '"grade": 3.0')),
    )
    assert all(old in lines[2] for old, _ in changes)
    for bad in ("garbage\n", "[]\n", "{}\n", "[" * 100_000 + "\n", lines[1], *(lines[2].replace(*c) for c in changes)):
        with open(writer.path, "w") as stream:
            stream.writelines([*lines[:2], bad, lines[3]])
        with pytest.raises(InputError, match="line 3"):
            read(writer.path)
    with open(writer.path, "w") as stream:
        stream.writelines(["{}\n", *lines[1:]])
    with pytest.raises(InputError, match="line 1"):
        read(writer.path)


def test_one_process_a_journal_and_one_data_folder(tmp_path):
    writer = Writer(tmp_path, 11, "anna", DATA)
    with pytest.raises(InputError, match="grading this class already"):
        Writer(tmp_path, 11, "anna", DATA)
    other = Writer(tmp_path, 11, "ben", DATA)  # another grader may write into the same folder
    writer.append([grade(1)])
    writer.close()
    other.close()
    with pytest.raises(InputError, match="other data"):
        Writer(tmp_path, 11, "anna", GradedData("other cells", "other"))
    for name in ("", "a/b", "..", "a.b", "x" * 41):
        with pytest.raises(InputError, match="--grader"):
            Writer(tmp_path, 11, name, DATA)


@pytest.mark.parametrize(("class_id", "grader"), [(11, "anna-old"), (12, "anna")])
def test_a_copy_of_a_journal_is_not_another_journal(tmp_path, class_id, grader):
    writer = Writer(tmp_path, 11, "anna", DATA)
    writer.append([grade(1)])
    writer.close()
    name = f"class-{class_id}.{grader}.jsonl"
    (tmp_path / name).write_bytes(Path(writer.path).read_bytes())
    with pytest.raises(InputError, match=f"{name}: found the journal of class 11 by anna"):
        Writer(tmp_path, class_id, grader, DATA)
    with pytest.raises(InputError, match=f"{name}.*class-11.anna.jsonl.*move copies out of the folder"):
        read_folder(tmp_path)


def test_a_name_that_a_mac_decomposed_is_the_same_name(tmp_path):
    for grader in ("zoë", "ben"):
        writer = Writer(tmp_path, 11, grader, DATA)
        writer.append([grade(1)])
        writer.close()
        names = {form: tmp_path / unicodedata.normalize(form, f"class-11.{grader}.jsonl") for form in ("NFC", "NFD")}
        names["NFC"].rename(names["NFD"])
    assert [journal.grader for journal in read_folder(tmp_path)] == ["ben", "zoë"]
    for grader in ("zoë", unicodedata.normalize("NFD", "zoë")):
        writer = Writer(tmp_path, 11, grader, DATA)
        assert len(writer.journal.decisions) == 1 and writer.journal.grader == "zoë"
        writer.close()
    (tmp_path / "class-11.zoë.jsonl").write_bytes(Path(writer.path).read_bytes())
    for use in (lambda: read_folder(tmp_path), lambda: Writer(tmp_path, 11, "zoë", DATA)):
        with pytest.raises(InputError, match=r"two files class-11\.zoë\.jsonl"):
            use()


def test_a_file_system_without_locks_takes_grades_too(tmp_path, monkeypatch):
    def no_locks(descriptor, operation):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(file_lock.fcntl, "flock", no_locks)
    with pytest.warns(HpaWarning, match="no locks on this disk: open one page only"):
        writer = Writer(tmp_path, 11, "anna", DATA)
    writer.append([grade(1)])
    assert len(read(writer.path).decisions) == 1


def test_every_acknowledged_line_survives_a_kill(tmp_path):
    code = (
        "import sys; from hpa_tf.grade_journal import *\n"
        "w = Writer(sys.argv[1], 11, 'anna', GradedData('', '')); n = 0\n"
        "while True:\n    n += 1; w.append([Decision(n, 'grade', 'image', n, 3)]); print(n, flush=True)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    acknowledged = [int(process.stdout.readline()) for _ in range(60)][-1]
    process.send_signal(signal.SIGKILL)
    acknowledged = max([acknowledged, *(int(line) for line in process.communicate()[0].split())])
    assert len(read(tmp_path / "class-11.anna.jsonl").decisions) >= acknowledged


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    writer = Writer(tmp_path, 11, "anna", DATA)
    writer.append([grade(1)])
    before = Path(writer.path).read_bytes()
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[: len(data) // 2]))
    with pytest.raises(InputError, match="make room"):
        writer.append([grade(2, 2)])
    monkeypatch.undo()
    assert Path(writer.path).read_bytes() == before
    writer.append([grade(2, 2)])
    assert len(read(writer.path).decisions) == 2


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=2, max_size=40))
def test_kappa_is_that_of_scikit_learn(pairs):
    one, other = np.array(pairs).T
    if len({*one.tolist(), *other.tolist()}) == 1:
        assert np.isnan(weighted_kappa(one, other))
        return
    expected = cohen_kappa_score(one, other, labels=[1, 2, 3, 4, 5], weights="quadratic")
    assert weighted_kappa(one, other) == pytest.approx(expected, abs=1e-9)


def test_agreement_and_table(tmp_path):
    anna, ben = Writer(tmp_path, 11, "anna", DATA), Writer(tmp_path, 11, "ben", DATA)
    anna.append([grade(1, 1, 5), grade(2, 2, 1), grade(3, 1, 5, repeat=True), grade(4, 2, 2, repeat=True)])
    anna.append([Decision(5, "skip", "image", 3), grade(6, 4, 4), undo(7, 6, cell=4)])
    ben.append([grade(1, 2, 1), grade(2, 1, 5)])
    kappa, pairs = self_agreement(anna.journal)
    assert pairs == 2 and kappa == pytest.approx(
        cohen_kappa_score([5, 1], [5, 2], labels=[1, 2, 3, 4, 5], weights="quadratic")
    )
    assert agreement_between(anna.journal, ben.journal) == (1.0, 2)
    table = grades_table(read_folder(tmp_path))
    assert table[["grader", "cell", "grade", "repeat"]].to_numpy().tolist() == [
        ["anna", 1, 5, False], ["anna", 2, 1, False], ["anna", 1, 5, True], ["anna", 2, 2, True],
        ["ben", 2, 1, False], ["ben", 1, 5, False],
    ]  # fmt: skip
    assert json.loads(Path(anna.path).read_text().splitlines()[0])["class"] == 11
    with pytest.raises(InputError, match="no journal"):
        (tmp_path / "empty").mkdir()
        read_folder(tmp_path / "empty")

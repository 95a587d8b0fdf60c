"""Files appear whole or not at all; ids and table cells from outside do no harm."""

import importlib
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from hpa_tf import cell_table, csv_tables, files, reporting
from hpa_tf.classes import CLASSES, NUM_CLASSES
from hpa_tf.errors import InputError
from hpa_tf.file_names import check_image_id


def test_an_interrupted_write_leaves_the_old_file_and_no_rubbish(tmp_path):
    path = tmp_path / "a.bin"
    files.write_bytes(path, b"old")
    with pytest.raises(KeyboardInterrupt), files.atomic_writer(path) as stream:
        stream.write(b"half of the new")
        assert path.read_bytes() == b"old"
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_file_is_on_the_disk_before_it_has_its_name_and_its_name_before_the_call_returns(tmp_path, monkeypatch):
    """What a power cut leaves: never a name without its content, never less than what was said to be written."""
    order, fsync, replace = [], os.fsync, os.replace

    def seen_fsync(descriptor):
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        order.append(("sync", path, None if os.path.isdir(path) else files.read_bytes(path)))
        fsync(descriptor)

    def seen_replace(source, target):
        order.append(("rename", str(source), str(target)))
        replace(source, target)

    monkeypatch.setattr(files.os, "fsync", seen_fsync)
    monkeypatch.setattr(files.os, "replace", seen_replace)
    files.write_bytes(tmp_path / "a.bin", b"all of it")
    (first, temporary, content), (second, source, target), (third, folder, _) = order
    assert (first, second, third) == ("sync", "rename", "sync")
    assert content == b"all of it" and temporary == source != target == str(tmp_path / "a.bin")
    assert folder == str(tmp_path)


def test_remote_files_go_through_the_same_functions():
    path = "memory://bucket/folder/x.json"
    files.make_folder("memory://bucket/folder")
    assert not files.exists(path)
    files.write_json(path, {"b": 1, "a": [1.5]})
    assert files.read_json(path) == {"a": [1.5], "b": 1}
    assert files.list_names("memory://bucket/folder") == ["x.json"]
    assert files.list_folders("memory://bucket") == ["folder"] and files.list_folders("memory://bucket/folder") == []
    assert files.join("memory://bucket/folder/", "x.json") == path


def test_json_refuses_nan_and_names_a_bad_file(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "x.json", {"a": float("nan")})
    (tmp_path / "bad.json").write_text("{")
    for name in ("bad.json", "none.json"):
        with pytest.raises(InputError, match=name):
            files.read_json(tmp_path / name)


@pytest.mark.parametrize("bad", ["", "a/b", "a\\b", "..", "a..b", "/etc/passwd", "a\nb", "a\x00", "x" * 201])
def test_unsafe_image_ids_are_refused(bad):
    with pytest.raises(InputError):
        check_image_id(bad, "train.csv row 3")


@pytest.mark.parametrize("good", ["000a6c98-bb9b-11e8-b2b9-ac1f6b6435d0", "57_F11_1", "a.b", "Zelle ä", "-x", "=1+1"])
def test_other_image_ids_are_kept(good):
    assert check_image_id(good, "here") == good


def test_an_id_leaves_room_for_the_longest_name_that_is_made_of_it(tmp_path, monkeypatch):
    """A file's name has 255 bytes, of which a letter may take three; also while it is written."""
    with pytest.raises(InputError, match="at most 220 bytes"):
        check_image_id("细" * 78, "here")
    monkeypatch.setattr(os, "getpid", lambda: 4_194_304)  # Linux's largest
    longest = check_image_id("细" * 73 + "a", "here")
    files.write_bytes(tmp_path / f"{longest}_nucleusmask.png", b"")
    assert os.listdir(tmp_path) == [f"{longest}_nucleusmask.png"]


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="choose another --out"):
        files.make_folder(tmp_path / "file" / "below")


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1+2", "@SUM(A1)", "\t=1", "\r=1"])
def test_csv_cells_never_become_formulas(tmp_path, text):
    reporting.write_csv(pd.DataFrame({text: [text, "plain"], "n": [-1.5, 2]}), tmp_path / "t.csv")
    again = pd.read_csv(tmp_path / "t.csv", keep_default_na=False)
    assert again.columns[0] == "'" + text
    assert again.iloc[0, 0] == "'" + text
    assert again["n"].tolist() == [-1.5, 2]


@pytest.mark.parametrize("name", ["image_id", "Größe"])
def test_tables_for_spreadsheets_begin_with_one_byte_order_mark(tmp_path, name):
    """Excel takes them for UTF-8 then, and readers see nothing of it."""
    table = pd.DataFrame({name: ["Müller_1", "plain"], "n": [1, 2]})
    reporting.write_csv(table, tmp_path / "marked.csv", marked=True)
    data = (tmp_path / "marked.csv").read_bytes()
    assert data.startswith(b"\xef\xbb\xbf") and data.count(b"\xef\xbb\xbf") == 1
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "marked.csv"), table, check_dtype=False)
    found = csv_tables.read_csv(tmp_path / "marked.csv", (name,))
    assert found.columns == (name, "n") and found.rows[0].cells[name] == "Müller_1"
    assert reporting.csv_bytes(table) == data[3:]


def test_html_is_escaped():
    page = reporting.render_page("<p>{{ name }}</p>", name="<script>alert(1)</script>")
    assert page == "<p>&lt;script&gt;alert(1)&lt;/script&gt;</p>"


def table(num_cells: int = 3) -> pd.DataFrame:
    values = np.random.default_rng(0).random((num_cells, NUM_CLASSES))
    values[:1, 3] = np.nan
    return cell_table.from_values(
        ["ä", "b", "b"][:num_cells], [1, 1, 70000][:num_cells], values, {"fold": range(num_cells)}
    )


def test_cell_table_round_trip_keeps_unknown_values_and_bytes(tmp_path):
    cell_table.write(table(), tmp_path / "a.parquet", "truth")
    cell_table.write(table(), tmp_path / "b.parquet", "truth")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    pd.testing.assert_frame_equal(cell_table.read(tmp_path / "a.parquet"), table())
    assert cell_table.kind(tmp_path / "a.parquet") == "truth"
    cell_table.write(table(0), tmp_path / "empty.parquet", "labels")
    assert len(cell_table.read(tmp_path / "empty.parquet")) == 0


def test_a_first_part_without_rows_does_not_say_what_its_texts_are(tmp_path):
    texts = table().astype({"image_id": object}).assign(cell_line=pd.Series("A-431", range(len(table())), dtype=object))
    path = tmp_path / "parts.parquet"
    cell_table.write_parts([texts[:0], texts, texts[:0]], path, "predictions")
    assert cell_table.read(path)["cell_line"].tolist() == ["A-431"] * len(texts)
    cell_table.write_parts([texts[:0], texts[:0]], path, "predictions")
    assert len(cell_table.read(path)) == 0


def test_cell_table_errors_name_the_fault(tmp_path):
    bad = {
        "no column": table().drop(columns=CLASSES[4]),
        "repeated cells": pd.concat([table(), table().iloc[:1]]),
        "values in 0..1": table().assign(**{CLASSES[2]: [0, 1.01, 0]}),
        "numbers > 0": table().assign(cell=[0, 1, 2]),
    }
    for message, wrong in bad.items():
        with pytest.raises(InputError, match=message):
            cell_table.write(wrong, tmp_path / "x.parquet", "labels")
    assert not (tmp_path / "x.parquet").exists()
    (tmp_path / "no.parquet").write_bytes(b"PAR1 but not really")
    for name in ("no.parquet", "missing.parquet"):
        with pytest.raises(InputError, match=name):
            cell_table.read(tmp_path / name)


def test_a_full_disk_ends_a_command_with_one_line(tmp_path):
    """A limit on the size of a file stands in for a full disk: the system refuses the write in the same way."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20000, resource.RLIM_INFINITY));"
        "from hpa_tf.synthetic.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["--out", str(tmp_path / "made"), "--num-images", "2", "--size", "512", "--workers", "2"]
    process = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert process.returncode == 2, process.stderr
    assert "File too large" in process.stderr and "run the same command" in process.stderr
    assert "Traceback" not in process.stderr and not list(tmp_path.rglob("*.tmp"))


def test_another_error_of_the_system_is_not_taken_for_a_full_disk(tmp_path):
    with pytest.raises(FileNotFoundError), files.full_disk_explained(tmp_path):
        (tmp_path / "missing").read_bytes()


def test_the_files_of_an_id_are_those_that_begin_with_it_or_have_it_in_a_pattern(tmp_path):
    names = ("i1_cellmask.png", "i1.tif", "i10_cellmask.png", "mask-i1.npy", "mask-i10.npy", "i1", "xi1_a.png", "i1-b")
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "cafe\u0301_mask.png").write_bytes(b"yy")  # decomposed, as macOS writes it
    (tmp_path / "me\u0301-i1.npy").write_bytes(b"x")
    patterns = ["mask-{ID}.npy", None, "me\u0301-{ID}.npy"]
    found = files.stamps_by_id(tmp_path, ["i1", "i10", "caf\u00e9", "i2"], patterns)
    of = {image_id: [name for name, *_ in stamps] for image_id, stamps in found.items()}
    assert of["i1"] == ["i1.tif", "i1_cellmask.png", "mask-i1.npy", "me\u0301-i1.npy"]
    assert of["i10"] == ["i10_cellmask.png", "mask-i10.npy"]
    (tmp_path / "i2 _mask.png").write_bytes(b"x")  # ids have no spaces at their ends
    assert [name for name, *_ in files.stamps_by_id(tmp_path, ["i2"])["i2"]] == ["i2 _mask.png"]
    assert of["caf\u00e9"] == ["cafe\u0301_mask.png"] and "i2" not in of


def test_a_file_that_cannot_be_written_is_known_before_the_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("new/folder/a.png", "a.png", tmp_path / "other" / "a.png"):
        files.check_can_be_written("--sheet", path)
        files.write_bytes(path, b"x")
        files.check_can_be_written("--sheet", path)
        assert files.read_bytes(path) == b"x"
    os.mkfifo("pipe")
    refusals = {tmp_path: f"the folder {tmp_path}", "": "the folder", "a.png/b.png": "File exists"}
    refusals |= {"pipe": f"the device or pipe {tmp_path}/pipe", os.devnull: f"the device or pipe {os.devnull}"}
    for path, found in refusals.items():
        with pytest.raises(InputError, match=f"{found}.*expected") as refused:
            files.check_can_be_written("--sheet", path)
        assert "--sheet" in str(refused.value)
    files.check_can_be_written("--sheet", "memory://bucket/a.png")


BUILDER, EVALUATION, SYNTHETIC = "tfrecords_builder.command", "hpa_tf.evaluation.command", "hpa_tf.synthetic.command"


@pytest.mark.parametrize(
    ("module", "words", "option"),
    [
        (BUILDER, "label --rule merge --tables none none", "--out"),
        (BUILDER, "label --rule soften --data none", "--out"),
        (BUILDER, "inspect none", "--sheet"),
        (BUILDER, "diff none none --data none", "--sheet"),
        (BUILDER, "diff none none --data none", "--page"),
        (EVALUATION, "page --out new/page.html", "--picture"),
        (EVALUATION, "page", "--out"),
        (EVALUATION, "check none", "--out"),
        (EVALUATION, "heat --predictions none --images none --masks none", "--out"),
        (EVALUATION, "cells --labels none --predictions none", "--out"),
        (SYNTHETIC, "sheet", "--out"),
    ],
)
def test_commands_refuse_what_they_cannot_write_before_they_read(tmp_path, monkeypatch, capsys, module, words, option):
    """There is no input: whoever reads first names that."""
    monkeypatch.chdir(tmp_path)
    inputs = [f"--{name}" for name in ("run-folder", "predictions", "scores", "images", "masks", "truth-labels")]
    of_page = [word for name in inputs for word in (name, "none")] if words.startswith("page") else []
    (tmp_path / "file").write_text("")
    is_folder = words.split()[0] in ("heat", "cells")  # these write a folder
    place = str(tmp_path / "file") if is_folder else str(tmp_path)
    assert importlib.import_module(module).main([*words.split(), *of_page, option, place]) == 2
    error = capsys.readouterr().err
    assert "File exists" in error if is_folder else f"{option}: found the folder {tmp_path}" in error, error
    assert error.count("\n") == 1


@pytest.mark.parametrize(("path", "module"), [("s3://bucket/x", "s3fs"), ("s4://bucket/x", None)])
def test_a_store_that_cannot_be_opened_is_a_clear_error(monkeypatch, path, module):
    """Its library is not installed, or there is no such store."""
    if module:
        monkeypatch.setitem(sys.modules, module, None)
    for call in (files.exists, files.list_names, files.open_file):
        with pytest.raises(InputError, match=r"address that cannot be opened.*hpa_tf\[remote\]"):
            call(path)

"""The grading page without its browser: what comes next, what is refused, what a request may not do."""

import contextlib
import hashlib
import json
import struct
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from grading_cases import CLASS, write_cells
from shards import one_hot, write_dataset
from werkzeug.test import Client

from hpa_tf import cell_table, files, framing, records
from hpa_tf.encoding import encode_picture
from hpa_tf.errors import HpaWarning, InputError
from hpa_tf.grade_decisions import Decision
from hpa_tf.grade_journal import Writer, read
from hpa_tf.grading import command, pixels
from hpa_tf.grading.cells import read_cells
from hpa_tf.grading.command import Options, main, make_session
from hpa_tf.grading.order import REPEAT_GAP, queue
from hpa_tf.grading.server import TOKEN_HEADER, GradingApp
from hpa_tf.grading.session import Conflict, Session


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grading") / "data"
    table, scores = write_cells(folder, 90)
    return folder, table, scores


def open_session(folder, out, **options):
    return make_session(Options(data=str(folder), class_=str(CLASS), out=str(out), grader="anna", **options))


# -- the queue --------------------------------------------------------------------------------------------------------


def test_queue_orders(data):
    folder, table, scores = data
    cells = read_cells(folder, CLASS, predictions=folder.parent / "predictions.parquet")
    np.testing.assert_array_equal(cells.score, scores)
    everything = np.ones(len(cells), bool)
    labels = table["Mitotic spindle"].to_numpy()

    def keys(order, which):
        return {
            "uncertainty": np.abs(scores - 0.5), "disagreement": -np.abs(scores - labels), "probability": -scores,
        }[order][queue(cells, everything, order, which, 0)]  # fmt: skip

    for order in ("uncertainty", "disagreement", "probability"):
        assert (np.diff(keys(order, "all")) >= 0).all() and len(keys(order, "all")) == 90
    labelled, unlabelled = (queue(cells, everything, "random", which, 1) for which in ("labelled", "unlabelled"))
    assert set(labelled) == set(np.flatnonzero(labels > 0)) and set(unlabelled) == set(np.flatnonzero(labels == 0))
    assert labelled.tolist() != queue(cells, everything, "random", "labelled", 2).tolist()
    with pytest.raises(InputError, match="--table"):
        queue(read_cells(folder, CLASS), everything, "uncertainty", "all", 0)
    with pytest.raises(InputError, match="no cell"):
        queue(cells, np.zeros(len(cells), bool), "random", "all", 0)


def test_cells_without_a_score_come_last(data, tmp_path):
    folder, table, scores = data
    some = cell_table.from_values(table["image_id"], table["cell"], np.tile(scores[:, None], 19)).iloc[::2]
    cell_table.write(some[::-1], tmp_path / "some.parquet", "predictions")
    cells = read_cells(folder, CLASS, predictions=tmp_path / "some.parquet")
    rows = queue(cells, np.ones(90, bool), "probability", "all", 0)
    assert (np.diff(scores[rows[:45]]) <= 0).all() and set(rows[:45]) == set(range(0, 90, 2))
    other = some.assign(image_id="elsewhere", cell=np.arange(45) + 1)
    cell_table.write(other, tmp_path / "other.parquet", "predictions")
    with pytest.raises(InputError, match="none of the 90 cells"):
        read_cells(folder, CLASS, predictions=tmp_path / "other.parquet")


def test_tables_of_other_masks_are_refused(data, tmp_path):
    """Equal numbers are other cells there: they would be graded by another cell's score or label."""
    folder, table, _ = data
    for column in ("cell_area", "left"):
        other = table.assign(**{column: table[column] + (np.arange(90) > 70)})
        cell_table.write(other, tmp_path / "other.parquet", "predictions")
        for joined in ("labels", "predictions"):
            with pytest.raises(InputError, match=rf"other\.parquet.*{column}.*19 of 90 cells differ.*other masks"):
                read_cells(folder, CLASS, **{joined: tmp_path / "other.parquet"})


def test_the_cells_of_the_data_are_read_once_however_many_tables_are_joined(data, tmp_path, monkeypatch):
    folder, table, scores = data
    cell_table.write(table.iloc[::-1].iloc[:60], tmp_path / "labels.parquet", "labels")
    opened, open_file = [], files.open_file
    monkeypatch.setattr(files, "open_file", lambda path, *more: opened.append(str(path)) or open_file(path, *more))
    cells = read_cells(folder, CLASS, tmp_path / "labels.parquet", folder.parent / "predictions.parquet")
    assert opened.count(str(folder / "cells.parquet")) == 1
    assert np.isnan(cells.label[:30]).all() and not cells.alone[:30].any()
    np.testing.assert_array_equal(cells.label[30:], table["Mitotic spindle"].to_numpy(np.float32)[30:])
    np.testing.assert_array_equal(cells.score, scores)


def test_unclean_cells_and_folds_stay_out(tmp_path):
    labels = np.stack([one_hot(3)] * 12)
    cleaning = {"cleaning_value": np.array([1.0, 0.001] * 6)}
    write_dataset(tmp_path / "data", labels, columns=None)
    table = cell_table.read(tmp_path / "data" / "cells.parquet").assign(**cleaning)
    cell_table.write(table, tmp_path / "data" / "cells.parquet", "labels")
    options = {"data": str(tmp_path / "data"), "class_": "Nucleoli fibrillar center", "out": str(tmp_path / "out")}
    assert len(make_session(Options(**options, grader="a")).rows) == 6
    assert len(make_session(Options(**options, grader="b", clean=False)).rows) == 12
    assert len(make_session(Options(**options, grader="c", clean=False, fold=(1,))).rows) == 6
    with pytest.raises(InputError, match="--fold"):
        make_session(Options(**options, grader="d", fold=(7,)))


def test_repeats_come_later_unasked_and_once(data, tmp_path):
    session = open_session(data[0], tmp_path, which="all", repeat_share=0.2)
    shown, expected = [], session.state()["upcoming"]
    while expected:
        row = expected[0]
        session.grade([row], 1 + row % 5, 0.5)
        shown.append(row)
        following = session.state()["upcoming"]
        assert following[: len(expected) - 1] == expected[1:]  # what was fetched ahead is what comes
        expected = following
    first = {row: shown.index(row) for row in set(shown)}
    repeats = [(at, first[row]) for at, row in enumerate(shown) if first[row] != at]
    assert set(shown) == set(range(90)) and len(shown) - 90 == len(repeats)
    assert all(at - before > REPEAT_GAP - 1 for at, before in repeats)
    assert len({before for _, before in repeats}) == len(repeats)
    assert 0.14 < len(repeats) / len(shown) <= 0.2
    state = session.state()
    assert (state["done"], state["pairs"], state["kappa"], state["graded"]) == (90, len(repeats), 1.0, len(shown))


def test_a_session_goes_on_with_the_same_cells(data, tmp_path):
    session = open_session(data[0], tmp_path, repeat_share=0.2)
    for number in range(40):
        session.grade(session.state()["upcoming"][:1], number % 5 + 1, 1.0)
    expected = session.state()
    session.writer.close()
    again = open_session(data[0], tmp_path, repeat_share=0.2)
    assert again.state() == expected and expected["pairs"] > 0
    assert f", self-agreement {expected['kappa']:.2f} on {expected['pairs']} repeats" in command._summary(again)


@pytest.mark.parametrize("other", [{"which": "unlabelled"}, {"fold": (1,)}])
def test_a_journal_goes_on_with_another_queue(data, tmp_path, other):
    """Repeats come from the new queue: cells of the old one cannot be graded in it."""
    session = open_session(data[0], tmp_path, fold=(0,), repeat_share=0.2)
    while upcoming := session.state()["upcoming"]:
        session.grade(upcoming[:1], 3, 1.0)
    before = session.state()
    session.writer.close()
    session = open_session(data[0], tmp_path, repeat_share=0.2, **other)
    while upcoming := session.state()["upcoming"]:
        session.grade(upcoming[:1], 3, 1.0)
    state = session.state()
    assert state["done"] == state["total"] == len(session.rows) and before["graded"] > 30
    repeats = state["pairs"] - before["pairs"]
    assert repeats > 0 and state["graded"] == before["graded"] + state["total"] + repeats


def test_decided_cells_are_not_decided_twice(data, tmp_path):
    session = open_session(data[0], tmp_path)
    first, second, *_ = session.state()["upcoming"]
    session.grade([first], 4, None)
    with pytest.raises(Conflict, match="before"):
        session.grade([second, first], 1, None)
    with pytest.raises(Conflict, match="not in the queue"):
        session.grade([0], 1, None)  # row 0 does not have the class
    session.correct(1, 2)
    with pytest.raises(Conflict):
        session.correct(1, 5)
    assert session.undo() == first and session.undo() == first and session.undo() is None
    assert session.state()["upcoming"][:2] == [first, second] and session.state()["done"] == 0


def test_cells_that_are_graded_at_once_share_the_time(data, tmp_path):
    session = open_session(data[0], tmp_path)
    session.grade(session.state()["upcoming"][:12], 3, 24.0)
    assert session.state()["per_minute"] == 30
    assert session.state()["minutes_left"] == pytest.approx((session.state()["total"] - 12) / 30)


def test_examples_are_graded_cells_when_there_are_some(data, tmp_path):
    folder, _, scores = data
    session = open_session(folder, tmp_path)
    alone = session.examples()
    assert "alone" in alone["source"] and len(alone["rows"]) == 6
    scored = open_session(folder, tmp_path / "2", table=str(folder.parent / "predictions.parquet"))
    assert scored.examples()["rows"] == np.argsort(-scores)[:6].tolist()
    rows = session.state()["upcoming"][:4]
    session.grade(rows, 5, None)
    assert session.examples() == {"source": "graded 5 by you", "rows": rows[::-1]}


def test_examples_are_of_the_labels_that_are_given(data, tmp_path):
    folder, table, _ = data
    values = np.tile(one_hot(CLASS, 3), (80, 1))  # no row for the last ten cells
    values[10:15, 3], values[15:20, CLASS] = np.nan, 0
    cell_table.write(
        cell_table.from_values(table["image_id"][:80], table["cell"][:80], values), tmp_path / "l", "labels"
    )
    examples = open_session(folder, tmp_path, labels=str(tmp_path / "l")).examples(20)
    assert "alone" in examples["source"] and sorted(examples["rows"]) == [10, 11, 12, 13, 14]


# -- pixels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_what_the_page_draws(dtype):
    top = np.iinfo(dtype).max
    crop = np.zeros((40, 20, 4), dtype)
    region = np.zeros((40, 20), np.uint8)
    region[10:30, 5:15], region[0, 0] = 1, 3
    crop[region == 1] = (top, top // 2, 10, 0)
    crop[10:20, 5:15, 1] //= 2
    record = {"crop": encode_picture(crop), "region": encode_picture(region)}
    data = pixels.pack(record, np.array([1, 0.5, 1, 1]), 512, {"row": 3})
    length = struct.unpack("<I", data[:4])[0]
    header = json.loads(data[4 : 4 + length])
    assert header == {"height": 40, "width": 20, "brightness": [1, 0.5, 1, 1], "row": 3}
    planes = np.frombuffer(data[4 + length :], np.uint8).reshape(5, 40, 20)
    np.testing.assert_array_equal(planes[4], region)
    assert set(np.unique(planes[0])) == {0, 255} and set(np.unique(planes[2])) == {0, 255} and planes[3].max() == 0
    assert planes[1, 25, 10] == 255 and abs(int(planes[1, 15, 10]) - 127) <= 1
    small = pixels.pack(record, np.ones(4), 10, {})
    assert len(small) - 4 - struct.unpack("<I", small[:4])[0] == 5 * 10 * 5


def test_context_shows_the_cell_where_it_is(data, tmp_path):
    folder = data[0]
    app = GradingApp(open_session(folder, tmp_path))
    response = ask(app, "/api/context/5")
    assert response.status_code == 200, response.text
    picture = cv2.imdecode(np.frombuffer(response.data, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (640, 640, 3)
    rows, columns = np.nonzero(picture.max(axis=2) > 60)
    record = app.session.cells.record(5)
    top, left, bottom, _ = record["crop_box"] * 640 / 2048  # all crops of these images lie at one place
    assert abs(rows.min() - top) < 8 and abs(columns.min() - left) < 8 and rows.max() < bottom + 20


def write_fields(folder, table, **wrong):
    """Write the field of view of each image into the shard that goes with its cells; `wrong` replaces values."""
    manifest = records.read_manifest(folder)
    picture = encode_picture(np.full((64, 64, 4), 200, np.uint8))
    for name, cells in table.groupby("shard"):
        frames = [
            framing.frame(records.encode({
                "image_id": image_id.encode(), "fold": 0, "image_size": (2048, 2048), "um_per_px": 0.08, "bits": 8,
                "image": picture, "masks": picture, "labels": one_hot(CLASS), **wrong,
            }, records.IMAGE_FIELDS))
            for image_id in cells["image_id"].unique()
        ]  # fmt: skip
        shard = records.Shard(name.replace("cells-", "fields-"), "fields", 0, len(frames), 0, "")
        (folder / shard.name).write_bytes(b"".join(frames))
        manifest = replace(manifest, shards=(*manifest.shards, shard))
    records.write_manifest(folder, manifest)


def torn(pixels):
    """Return a PNG with intact ends and nothing but noise between them."""
    data = encode_picture(pixels)
    return data[:33] + b"x" * (len(data) - 45) + data[-12:]


@pytest.mark.parametrize("damage", ["gone", "cut short", "no picture", "no PNG", "another record", "region", "crop"])
def test_damage_in_the_context_is_said(tmp_path, damage):
    folder = tmp_path / "data"
    table, _ = write_cells(folder, 24, cells_per_image=1, size=(30, 30))
    if damage != "crop":
        wrong = {"no picture": b"text", "no PNG": torn(np.zeros((64, 64, 4), np.uint8))}
        write_fields(folder, table, **({"image": wrong[damage]} if damage in wrong else {}))
    app = GradingApp(open_session(folder, tmp_path / "grades"))
    shard = folder / table["shard"][0]
    field = folder / shard.name.replace("cells-", "fields-")
    if damage == "gone":
        field.unlink()
    elif damage == "cut short":
        assert ask(app, "/api/context/1").status_code == 200
        field.write_bytes(b"")
    elif damage == "another record":
        field.write_bytes(shard.read_bytes())
    elif damage in ("region", "crop"):
        picture = torn(np.zeros((30, 30, 4) if damage == "crop" else (30, 30), np.uint8))
        shard.write_bytes(framing.frame(records.encode(app.session.cells.record(0) | {damage: picture})))
    response = ask(app, "/api/context/0")
    assert response.status_code == 500 and "repair" in response.text and "image-00000" in response.text


def test_a_foreign_shard_or_a_wrong_record_is_an_error(tmp_path):
    write_cells(tmp_path / "data", 12)
    path = tmp_path / "data" / "cells.parquet"
    table = cell_table.read(path)
    for name in ("../../etc/passwd", "/etc/passwd", "cells-fold9.tfrecord-00000-of-00001"):
        cell_table.write(table.assign(shard=[name, *table["shard"][1:]]), path, "labels")
        with pytest.raises(InputError, match=r"shard|image id"):
            read_cells(tmp_path / "data", CLASS)
    cell_table.write(table.assign(offset=[table["offset"][1], *table["offset"][1:]]), path, "labels")
    cells = read_cells(tmp_path / "data", CLASS)
    with pytest.raises(InputError, match="image-00000"):
        cells.record(0)
    cell_table.write(table.assign(offset=table["offset"] + 1), path, "labels")
    with pytest.raises(InputError, match="no intact record"):
        read_cells(tmp_path / "data", CLASS).record(0)


# -- requests ---------------------------------------------------------------------------------------------------------


def ask(app, path, value=None, **headers):
    """Send a request as the page does; headers override (None = leave out)."""
    sent = {"Host": "127.0.0.1:8011", TOKEN_HEADER: app.token, "Sec-Fetch-Site": "same-origin"}
    if value is not None:
        sent["Origin"] = "http://127.0.0.1:8011"
    sent = {name: text for name, text in {**sent, **headers}.items() if text is not None}
    client = Client(app)
    return client.get(path, headers=sent) if value is None else client.post(path, json=value, headers=sent)


@pytest.fixture
def app(data, tmp_path):
    return GradingApp(open_session(data[0], tmp_path / "grades"))


def test_only_the_page_itself_is_answered(app):
    row = app.session.state()["upcoming"][0]
    value = {"rows": [row], "grade": 3, "seconds": 1.0}
    refused = [
        {TOKEN_HEADER: None}, {TOKEN_HEADER: "wrong"}, {TOKEN_HEADER: "é"},
        {"Host": "evil.example"}, {"Host": "127.0.0.1.evil.example:8011"}, {"Host": "192.168.0.7:8011"}, {"Host": ""},
        {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:9999"}, {"Origin": None},
        {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
    ]  # fmt: skip
    for headers in refused:
        assert ask(app, "/api/grade", value, **headers).status_code == 403, headers
        if headers != {"Origin": None}:
            assert ask(app, "/api/state", **headers).status_code == 403, headers
    assert ask(app, "/", Host="evil.example").status_code == 403
    assert app.session.state()["done"] == 0
    # forwarded through SSH, the page has another port; that is still this machine
    assert ask(app, "/api/state", Host="localhost:9001").status_code == 200
    assert ask(app, "/api/grade", value, Host="localhost:9001", Origin="http://localhost:9001").status_code == 200
    assert app.session.state()["done"] == 1


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_link_of_another_site_opens_the_page_and_nothing_else(app, site):
    """A terminal in the browser is another site, and its links are clicked."""
    clicked = {TOKEN_HEADER: None, "Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert ask(app, "/", **clicked).status_code == 200
    for other in (
        *({"Sec-Fetch-Dest": kind} for kind in ("iframe", "frame", "embed", "object", "empty", None)),
        *({"Sec-Fetch-Mode": mode} for mode in ("no-cors", "cors", "same-origin", None)),
        *({"Host": "evil.example"}, {"Origin": "http://evil.example"}),
    ):
        assert ask(app, "/", **{**clicked, **other}).status_code == 403, other
    for path in ("/page.js", "/cells.js", "/page.css", "/api/state", "/api/cell/0"):
        assert ask(app, path, **{**clicked, TOKEN_HEADER: app.token}).status_code == 403, path
    value = {"rows": [app.session.state()["upcoming"][0]], "grade": 3, "seconds": 1.0}
    assert ask(app, "/api/grade", value, **{**clicked, TOKEN_HEADER: app.token}).status_code == 403
    assert ask(app, "/", value, **clicked).status_code == 403


def test_a_form_of_another_site_cannot_decide(app):
    """A form can send text/plain without asking first; JSON it cannot."""
    client = Client(app)
    headers = {"Host": "127.0.0.1:8011", TOKEN_HEADER: app.token, "Origin": "http://127.0.0.1:8011"}
    row = app.session.state()["upcoming"][0]
    body = json.dumps({"rows": [row], "grade": 3, "seconds": None})
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert client.post("/api/grade", data=body, content_type=kind, headers=headers).status_code == 400
    assert client.get("/api/grade", headers=headers).status_code == 405


@pytest.mark.parametrize(
    ("path", "value", "code"),
    [
        ("/api/grade", {"rows": [10**9], "grade": 3, "seconds": None}, 409),
        ("/api/grade", {"rows": [], "grade": 3, "seconds": None}, 400),
        ("/api/grade", {"rows": ["1"], "grade": 3, "seconds": None}, 400),
        ("/api/grade", {"rows": [-1], "grade": 3, "seconds": None}, 400),
        ("/api/grade", {"rows": [True], "grade": 3, "seconds": None}, 400),
        ("/api/grade", {"rows": list(range(101)), "grade": 3, "seconds": None}, 400),
        ("/api/grade", {"rows": [1], "grade": 6, "seconds": None}, 400),
        ("/api/grade", {"rows": [1], "grade": True, "seconds": None}, 400),
        ("/api/grade", {"rows": [1], "grade": 3.0, "seconds": None}, 400),
        ("/api/grade", {"rows": [1], "grade": 3, "seconds": -1}, 400),
        ("/api/grade", {"rows": [1], "grade": 3}, 400),
        ("/api/grade", [1], 400),
        ("/api/correct", {"number": 1, "grade": 3}, 409),
        ("/api/grade", {"rows": [1], "grade": 3, "seconds": "x" * 70000}, 413),
        ("/api/undo", {"all": 1}, 400),
        ("/api/cell/90", None, 404),
        ("/api/cell/-1", None, 404),
        ("/api/cell/../../etc/passwd", None, 404),
        ("/api/cell/%2e%2e%2f%2e%2e%2fetc%2fpasswd", None, 404),
        ("/../cells.py", None, 404),
        ("/cells.py", None, 404),
        ("/api/context/100000000000000000000", None, 404),
        ("/api/graded?limit=0", None, 400),
    ],
)
def test_bad_requests_are_said_and_change_nothing(app, path, value, code):
    response = ask(app, path, value)
    assert response.status_code == code, response.text
    assert "Traceback" not in response.text and "<" not in response.text
    assert app.session.writer.journal.decisions == []


def test_answers_may_not_be_framed_guessed_or_kept(app):
    for path in ("/", "/page.js", "/page.css", "/cells.js", "/api/state", "/nowhere"):
        headers = ask(app, path).headers
        assert "default-src 'none'" in headers["Content-Security-Policy"] and "unsafe" not in str(headers)
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert (headers["X-Content-Type-Options"], headers["Cache-Control"]) == ("nosniff", "no-store")
    for path in ("/", "/page.js", "/page.css", "/cells.js"):
        text = ask(app, path).text
        assert app.token not in text and "http://" not in text and "https://" not in text  # nothing from elsewhere


def test_blinded_by_default(data, app, tmp_path):
    row = app.session.state()["upcoming"][0]
    assert b'"label"' not in ask(app, f"/api/cell/{row}").data
    seeing = GradingApp(open_session(data[0], tmp_path / "2", show_label=True))
    assert b'"label": 1.0, "score": null' in ask(seeing, f"/api/cell/{row}").data


def test_a_grade_is_on_the_disk_before_the_answer(app):
    row = app.session.state()["upcoming"][0]
    answer = ask(app, "/api/grade", {"rows": [row], "grade": 5, "seconds": 0.8}).json
    decision = read(app.session.writer.path).decisions[0]
    assert (decision.image_id, decision.cell) == app.session.cells.key(row)
    assert (decision.grade, decision.seconds) == (5, 0.8) and answer["upcoming"][0] != row


def test_grades_of_other_data_are_refused(data, tmp_path):
    cells = read_cells(data[0], CLASS)
    writer = Writer(tmp_path, CLASS, "anna", cells.data)
    writer.append([Decision(1, "grade", "image-99999", 1, 4)])
    with pytest.raises(InputError, match="image-99999"):
        Session(cells, CLASS, np.arange(90), writer)


def test_grades_belong_to_the_cells_and_not_to_the_build(data, tmp_path):
    """Other masks give other cells of the same numbers; another margin or order of the shards gives the same cells."""
    session = open_session(data[0], tmp_path / "grades")
    session.grade(session.state()["upcoming"][:3], 4, None)
    session.writer.close()
    write_cells(tmp_path / "other" / "data", 90, seed=1)
    with pytest.raises(InputError, match="grades of other data"):
        open_session(tmp_path / "other" / "data", tmp_path / "grades")
    table, _ = write_cells(tmp_path / "same" / "data", 90)
    records.write_manifest(
        tmp_path / "same" / "data", replace(records.read_manifest(data[0]), margin=8, fingerprint="1" * 64)
    )
    cell_table.write(table[::-1], tmp_path / "same" / "data" / "cells.parquet", "labels")
    again = open_session(tmp_path / "same" / "data", tmp_path / "grades")
    assert again.state()["graded"] == 3
    again.writer.close()


def test_a_journal_of_an_earlier_version_goes_on(data, tmp_path):
    """It names its data by the fingerprint of the build, and does not say where its cells are."""
    session = open_session(data[0], tmp_path)
    session.grade(session.state()["upcoming"][:1], 4, None)
    session.writer.close()
    path = Path(session.writer.path)
    header, line = map(json.loads, path.read_text().splitlines())
    assert len(line.pop("place")) == 5

    def written_on(fingerprint):
        old = {**header, "version": 1, "data": fingerprint}
        path.write_text(f"{json.dumps(old)}\n{json.dumps(line)}\n")

    written_on(read_cells(data[0], CLASS).data.fingerprint)
    for graded in (1, 2):
        session = open_session(data[0], tmp_path)
        assert session.state()["graded"] == graded
        session.grade(session.state()["upcoming"][:1], 4, None)
        session.writer.close()
    written_on("2" * 64)
    with pytest.raises(InputError, match=r"grades of other data .*cells 222222222222"):
        open_session(data[0], tmp_path)


def test_grades_go_on_where_images_came_or_went(data, tmp_path):
    """Only the cells that were decided count; those that come later stand in the same journal."""
    session = open_session(data[0], tmp_path / "grades")
    session.grade(session.state()["upcoming"][:3], 4, None)
    session.writer.close()
    write_cells(tmp_path / "more" / "data", 98)
    more = open_session(tmp_path / "more" / "data", tmp_path / "grades", which="all")
    assert more.state()["graded"] == 3
    new = [row for row in range(len(more.cells)) if more.cells.key(row)[0] not in set(data[1]["image_id"])]
    more.grade(new[:1], 5, None)
    more.undo()
    more.writer.close()
    open_session(data[0], tmp_path / "grades").writer.close()  # undone: its cell need not be there
    more = open_session(tmp_path / "more" / "data", tmp_path / "grades", which="all")
    more.grade(new[:1], 5, None)
    more.writer.close()
    with pytest.warns(HpaWarning, match=r"1 decision \(class 11, anna\) left out: the data lack 1 image, first 'im"):
        fewer = open_session(data[0], tmp_path / "grades")
    assert fewer.state()["graded"] == 3 and fewer.graded("", None, "", 0, 9)["total"] == 3
    for _ in range(3):
        fewer.undo()
    assert fewer.undo() is None and len(fewer.writer.journal.standing) == 1
    fewer.writer.close()
    with pytest.raises(InputError, match=r"grades of other data .*expected a cell that the data have"):
        open_session(data[0], tmp_path / "grades")  # all are of other images


def test_a_journal_that_was_begun_on_other_cells_says_so_of_each_decision(data, tmp_path):
    """Nothing was decided on the first data, whose digest the journal has: its grades are those of the second."""
    open_session(data[0], tmp_path / "grades").writer.close()
    write_cells(tmp_path / "other" / "data", 90, seed=1)
    session = open_session(tmp_path / "other" / "data", tmp_path / "grades")
    session.grade(session.state()["upcoming"][:3], 4, None)
    session.writer.close()
    assert read(session.writer.path).data == read_cells(data[0], CLASS).data.cells
    with pytest.raises(InputError, match=r"grades of other data .*as in the data"):
        open_session(data[0], tmp_path / "grades")


def test_a_table_that_does_not_say_which_cells_they_are_is_refused(tmp_path):
    table, _ = write_cells(tmp_path / "data", 12)
    cell_table.write(table.drop(columns="left"), tmp_path / "data" / "cells.parquet", "labels")
    with pytest.raises(InputError, match=r"no column \['left'\]"):
        read_cells(tmp_path / "data", CLASS)


def test_a_changed_or_damaged_table_is_refused(tmp_path):
    """Its offsets or numbers may be those of other cells; without checksums damage is said, too."""
    folder = tmp_path / "data"
    table, _ = write_cells(folder, 12)
    cells, whole = folder / "cells.parquet", (folder / "cells.parquet").read_bytes()
    manifest = records.read_manifest(folder)
    for place in range(0, len(whole), 40):
        cells.write_bytes(whole[:place] + bytes(byte ^ 255 for byte in whole[place : place + 40]) + whole[place + 40 :])
        with contextlib.suppress(InputError):
            read_cells(folder, CLASS)
    sums = {"cells.parquet": hashlib.sha256(whole).hexdigest()}
    records.write_manifest(folder, replace(manifest, checksums=sums))
    cell_table.write(table.assign(offset=table["offset"].to_numpy()[::-1]), cells, "labels")
    with pytest.raises(InputError, match="checksum differs"):
        read_cells(folder, CLASS)
    cells.write_bytes(whole)
    assert len(read_cells(folder, CLASS)) == 12


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--class", "19"], "--class"),
        (["--class", "Mitotic"], "--class"),
        (["--class", "11", "--order", "uncertainty"], "--table"),
        (["--class", "11", "--repeat-share", "0.9"], "--repeat-share"),
        (["--class", "11", "--seed", "-1"], "--seed: found -1; expected 0 or more"),
        (["--class", "11", "--table", "nowhere.parquet"], "nowhere.parquet"),
        (["--class", "11", "--grader", "../anna"], "--grader"),
        (["--class", "4"], "no cell is labelled"),
    ],
)
def test_bad_options_are_one_line(data, tmp_path, capsys, arguments, said):
    assert main(["--data", str(data[0]), "--out", str(tmp_path), "--port", "0", *arguments]) == 2
    captured = capsys.readouterr()
    assert said in captured.err and captured.err.count("\n") == 1 and "Traceback" not in captured.err


def test_a_user_without_a_name_is_asked_for_one(data, tmp_path, monkeypatch, capsys):
    """As in a container: no entry in the list of users, no USER."""

    def nobody():
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr("getpass.getuser", nobody)
    words = ["--data", str(data[0]), "--class", "5", "--out", str(tmp_path / "grades")]
    assert main(words) == 2
    assert "--grader" in capsys.readouterr().err

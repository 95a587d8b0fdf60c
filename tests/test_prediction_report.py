"""The report in a real browser: paging, sorting, nothing loaded from outside, hostile names stay text."""

import html.parser
import json
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request

import numpy as np
import prediction_cases as cases
import pytest

from hpa_tf import cell_table
from hpa_tf.classes import CLASSES, NUM_CLASSES
from hpa_tf.imaging.pictures import CLASS_COLOURS, WHITE
from hpa_tf.prediction import finishing, report, result_files
from hpa_tf.prediction.options import Options
from hpa_tf.prediction.predict import predict

HOSTILE = '<img src=x onerror="document.title=1">&amp;{{7*7}}'


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    root = tmp_path_factory.mktemp("report")
    for seed, (name, cells) in enumerate({"a": 4, "b": 0, HOSTILE: 3}.items()):
        cases.write_field(root / "images", name, cells, seed)
    run, images = cases.write_run(root / "run"), str(root / "images")
    predict(Options(str(root / "out"), run=(str(run),), images=images, masks=images, workers=1))
    return root / "out"


class Browser:
    """Headless Chromium by the WebDriver protocol: open a page, run a script in it, read its log."""

    def __init__(self, chromium: str, driver: str):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._process = subprocess.Popen([driver, f"--port={port}"], stdout=subprocess.DEVNULL)
        self._url = f"http://127.0.0.1:{port}"
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1400,1100"]
        wanted = {
            "goog:chromeOptions": {"binary": chromium, "args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        for attempt in range(100):
            try:
                answer = self._post("/session", {"capabilities": {"alwaysMatch": wanted}})
                break
            except OSError:
                assert attempt < 99, "chromedriver does not answer"
                time.sleep(0.1)
        self._url += f"/session/{answer['sessionId']}"

    def _post(self, path: str, value: dict):
        request = urllib.request.Request(self._url + path, json.dumps(value).encode())
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)["value"]

    def open(self, path):
        self._post("/url", {"url": f"file://{urllib.parse.quote(str(path))}"})

    def run(self, script: str):
        return self._post("/execute/sync", {"script": script, "args": []})

    def resize(self, width: int):
        self._post("/window/rect", {"width": width, "height": 900})

    def errors(self) -> list[dict]:
        return [entry for entry in self._post("/se/log", {"type": "browser"}) if entry["level"] == "SEVERE"]

    def quit(self):
        urllib.request.urlopen(urllib.request.Request(self._url, method="DELETE"), timeout=60)
        self._process.terminate()
        self._process.wait()


@pytest.fixture(scope="module")
def browser():
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("needs chromium and chromium-driver")
    started = Browser(chromium, driver)
    yield started
    started.quit()


class Loads(html.parser.HTMLParser):
    """Collects what a page would load, and its event handlers."""

    def __init__(self):
        super().__init__()
        self.loaded, self.handlers = [], []

    def handle_starttag(self, tag, attributes):
        self.loaded += [value for name, value in attributes if name in ("src", "href", "srcset", "data")]
        self.handlers += [name for name, _ in attributes if name.startswith("on")]


def test_report_is_self_contained_and_escaped(out):
    page = (out / "report.html").read_text(encoding="utf-8")
    parser = Loads()
    parser.feed(page)
    assert parser.loaded and all(value.startswith("data:image/") for value in parser.loaded)
    assert not parser.handlers and HOSTILE not in page and "&lt;img src=x onerror=" in page
    assert "{{7*7}}" in page, "the name is data, not a template"
    assert "label of the image" not in page, "nothing was said of whole images"
    assert "default-src 'none'" in page and "@import" not in page and "url(" not in page


SHOWN = "const page = [...document.querySelectorAll('.field')].filter(f => f.offsetParent !== null);"
CAPTION = SHOWN + "return page.map(f => f.querySelector('figcaption').innerText)"
CELLS = SHOWN + "return [...page[0].querySelectorAll('.card')].map(c => Number(c.dataset.cell))"


def choose(menu: str, value: object) -> str:
    return f"const m = document.getElementById('{menu}'); m.value = '{value}'; m.dispatchEvent(new Event('change'));"


def test_report_pages_and_sorts(out, browser):
    browser.open(out / "report.html")
    order = sorted(["a", "b", HOSTILE])
    for i, name in enumerate(order):
        (caption,) = browser.run(CAPTION)
        size = ", 10 x 8 µm" if name != "b" else ""  # the empty image's scale is not kept
        assert caption == f"{name}, 120 x 96 px{size}"
        assert browser.run("return document.getElementById('place').innerText") == f"image {i + 1} of 3"
        browser.run("document.getElementById('next').click()")
    assert browser.run("return document.getElementById('next').disabled")
    browser.run(choose("choose", order.index("b")))
    assert "No cell in this image" in browser.run(SHOWN + "return page[0].innerText")
    browser.run(choose("choose", order.index("a")))
    table = cell_table.read(out / "cells.parquet")
    own = table[table["image_id"] == "a"]
    best = cell_table.values(own).max(axis=1)
    by_confidence = own["cell"].to_numpy()[(-best).argsort(kind="stable")].tolist()
    assert browser.run(CELLS) == own["cell"].tolist() != by_confidence
    browser.run(choose("sort", "most"))
    assert browser.run(CELLS) == by_confidence
    browser.run(choose("sort", "least"))
    assert browser.run(CELLS) == by_confidence[::-1]


def test_report_shows_every_picture_and_runs_no_foreign_script(out, browser):
    browser.open(out / "report.html")
    sizes = browser.run(
        "document.querySelectorAll('.field').forEach(f => f.hidden = false);"
        "return Promise.all([...document.images].map(i => { i.loading = 'eager';"
        " return i.decode().then(() => [i.naturalWidth, i.naturalHeight]); }))"
    )
    assert len(sizes) == 3 + 7 and all(width > 50 and height > 50 for width, height in sizes)
    assert sum(width == 5 * height for width, height in sizes) == 7, "four channels and a heat map a cell"
    assert browser.run("return document.title") == "Predictions of run"
    assert browser.errors() == []


def test_cells_without_a_score_are_of_no_class(out, tmp_path):
    """Such as those that red.ai's rule removes: they were counted, drawn and named as Nucleoplasm."""
    shutil.copytree(out, tmp_path / "out")
    part = result_files.read_part(str(out), "a")
    part.table[cell_table.VALUES] = 0.0
    part.table.loc[0, CLASSES[5]] = 0.25
    result_files.write_part(str(tmp_path / "out"), part)
    report.write_report(str(tmp_path / "out"), ["a"], 30, "run", [])
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert f"</i>{CLASSES[0]} 0</span>" in page and f"</i>{CLASSES[5]} 1</span>" in page
    assert page.count("No class: all scores are 0.") == 3 == page.count('data-first=""')


def test_the_overlay_names_no_class_of_cells_without_a_score():
    mask = np.zeros((120, 240), np.int32)
    mask[10:110, 10:110], mask[10:110, 130:230] = 1, 2
    scores = np.zeros((2, NUM_CLASSES))
    scores[1, 0] = 0.5
    drawn = finishing.overlay(
        np.zeros((120, 240, 3), np.uint8), mask, cell_table.from_values(["a"] * 2, [1, 2], scores), top_k=1
    )
    assert (drawn[10, 60] == WHITE).all() and (drawn[10, 180] == CLASS_COLOURS[0]).all()
    written = (drawn[20:100, 20:100].any(axis=-1).sum(), drawn[20:100, 140:220].any(axis=-1).sum())
    assert 0 < written[0] < written[1] / 3, "the number alone, and number, name and score"


def test_images_whose_cells_differ_are_listed_and_lead_to_their_page(out, browser):
    def row(image_id: str, share: float) -> dict:
        text = {"first_locations": f"{HOSTILE} 3", "image_label": HOSTILE, "labels_without_cell": HOSTILE}
        return {"image_id": image_id, "cells": 4, "share_differing": share, "share_outside_label": 0.25, **text}

    order = sorted(["a", "b", HOSTILE])
    report.write_report(str(out), order, 30, "run", [row("a", 0.1), row(HOSTILE, 0.9), row("not shown", 0.5)])
    browser.open(out / "report.html")
    listed = browser.run("return [...document.querySelectorAll('details td:first-child')].map(d => d.innerText)")
    assert listed == [HOSTILE, "not shown", "a"], "the one that differs most is first"
    assert browser.run("return [...document.querySelectorAll('.go')].map(b => b.innerText)") == [HOSTILE, "a"]
    assert "label of the image" in browser.run("return document.querySelector('details').innerText")
    browser.resize(500)
    try:
        assert browser.run("return document.documentElement.scrollWidth <= window.innerWidth"), "scrolls sideways"
    finally:
        browser.resize(1400)
    for name in (HOSTILE, "a"):
        browser.run(f"[...document.querySelectorAll('.go')].find(b => b.innerText === {json.dumps(name)}).click()")
        assert browser.run(CAPTION)[0].startswith(f"{name}, ")
    assert browser.run("return document.title") == "Predictions of run" and browser.errors() == []

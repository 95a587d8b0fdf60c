"""The grading page in a real headless Chromium, with real key presses, on a real server that is really killed."""

import shutil
import time

import cv2
import numpy as np
import pytest
from grading_cases import BROWSER_FLAGS, CHROMIUM, CLASS, running_page, served_page, write_cells
from shards import one_hot, write_dataset

from hpa_tf import cell_table
from hpa_tf.grade_journal import read
from hpa_tf.grading.command import Options, make_session

if not CHROMIUM:
    pytest.skip("no Chromium: apt-get install chromium", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api")

HOSTILE = ["<img src=x onerror=alert(1)>", "'\";alert(1);&amp;", "\u202egnp.exe", "=cmd|' calc'!A0", "%2e%2e%2f"]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as engine:
        chromium = engine.chromium.launch(executable_path=CHROMIUM, args=BROWSER_FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser") / "data"
    write_cells(folder, 90, size=(40, 64))
    return folder


class Page:
    """A page and what went wrong in it."""

    def __init__(self, browser, address):
        self.tab = browser.new_page(viewport={"width": 1100, "height": 760})
        self.errors, self.elsewhere = [], []
        self.tab.on("pageerror", lambda error: self.errors.append(str(error)))
        self.tab.on("dialog", lambda dialog: (self.errors.append(f"dialog {dialog.message}"), dialog.dismiss()))
        self.tab.on("request", lambda request: self._note(request.url, address))
        self.tab.goto(address)
        self.tab.wait_for_selector("#stage canvas")

    def _note(self, url, address):
        if not url.startswith((address.split("#")[0], "data:", "blob:")):
            self.elsewhere.append(url)

    def row(self):
        return int(self.tab.locator("#stage canvas").first.get_attribute("data-row"))

    def press(self, key):
        """Press a key and wait until the page is ready for the next."""
        count = "performance.getEntriesByName('key to paint').length"
        before = self.tab.evaluate(count)
        self.tab.keyboard.press(key)
        self.wait(f"{count} > {before}")

    def wait(self, expression, seconds=30):
        """Wait until a JavaScript expression is true (the page forbids Playwright's own way, which needs eval)."""
        self.until(lambda: self.tab.evaluate(expression), expression, seconds)

    def until(self, is_so, what="what the test waits for", seconds=30):
        """Wait until a function says that something is so; what the page asks for is seen to in between."""
        end = time.monotonic() + seconds
        while not is_so():
            if time.monotonic() > end:
                raise TimeoutError(what)
            self.tab.wait_for_timeout(20)

    def pixels(self):
        return np.asarray(
            self.tab.evaluate(
                "() => { const c = document.querySelector('#stage canvas');"
                "return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]; }"
            ),
            np.uint8,
        ).reshape(-1, 4)


@pytest.fixture
def page(browser, data, tmp_path):
    with served_page(data, tmp_path / "grades") as address:
        page = Page(browser, address)
        yield page
        assert page.errors == [] and page.elsewhere == []
        page.tab.close()


def journal_of(tmp_path):
    return read(tmp_path / "grades" / "class-11.anna.jsonl")


def test_a_narrow_window_shows_the_cell_and_all_grades(page):
    page.tab.set_viewport_size({"width": 400, "height": 800})
    box = (
        "(query => { const b = document.querySelector(query).getBoundingClientRect();"
        "return [b.left, b.right, b.top, b.bottom] })"
    )
    assert page.tab.evaluate("document.documentElement.scrollWidth") == 400
    for key in ("Shift", "d"):  # one cell, then the grid
        page.tab.keyboard.press(key)
        left, right, top, bottom = page.tab.evaluate(f"{box}('#stage')")
        assert right - left > 300 and bottom - top > 200
        assert page.tab.evaluate(f"{box}('#grades')")[2] >= bottom
    assert page.tab.evaluate(f"{box}('#grades button:last-child')")[1] <= 400


def test_grade_skip_undo_back_and_correct(page, tmp_path):
    rows = []
    for key in "5312":
        rows.append(page.row())
        page.press(key)
    page.press("s")
    assert len({*rows, page.row()}) == 5
    undone = page.row()
    page.press("u")  # the skip
    page.press("Backspace")  # the 2
    assert page.row() == rows[3] != undone
    page.press("4")
    page.press("ArrowLeft")
    page.press("ArrowLeft")
    assert page.row() == rows[2] and "was: 1" in page.tab.inner_text("#stage")
    page.press("5")  # corrects, and goes forward
    assert page.row() == rows[3] and "was: 4" in page.tab.inner_text("#stage")
    page.press("ArrowRight")
    journal = journal_of(tmp_path)
    assert [d.grade for d in journal.standing.values()] == [5, 3, 5, 4]
    assert [d.action for d in journal.decisions] == ["grade"] * 4 + ["skip", "undo", "undo", "grade", "grade"]
    assert page.tab.inner_text("#progress-text") == "4 of 60"
    assert [page.tab.inner_text(f"#count-{grade}") for grade in range(1, 6)] == ["0", "0", "1", "1", "2"]


def test_reload_and_a_killed_server_lose_nothing(browser, data, tmp_path):
    out = tmp_path / "grades"
    with running_page(data, out) as (process, address):
        page = Page(browser, address)
        for key in "54":
            page.press(key)
        following = page.row()
        page.tab.reload()
        page.tab.wait_for_selector("#stage canvas")
        assert page.row() == following and page.tab.inner_text("#progress-text") == "2 of 60"
        process.kill()
        process.wait()
        page.tab.keyboard.press("3")
        page.tab.wait_for_selector("#status.bad")
        assert "Not saved" in page.tab.inner_text("#status") and page.row() == following
        page.tab.close()
    assert len(journal_of(tmp_path).decisions) == 2
    with running_page(data, out) as (_, again):
        page = Page(browser, again)
        assert page.row() == following and page.tab.inner_text("#progress-text") == "2 of 60"
        page.press("3")
        page.tab.close()
        old = browser.new_page()  # the address of the killed program opens nothing
        old.goto(again.split("#")[0] + "#" + address.split("#")[1])
        old.wait_for_selector("#status.bad")
        assert "token" in (said := old.inner_text("#status")) and "Not saved" not in said
        old.close()
    assert [d.grade for d in journal_of(tmp_path).standing.values()] == [5, 4, 3]


def test_grid_grades_in_any_order_and_the_rest_at_once(page, tmp_path):
    page.press("d")
    page.tab.wait_for_selector("#stage.grid")
    rows = [int(c.get_attribute("data-row")) for c in page.tab.locator("#stage canvas").all()]
    assert len(rows) == 12
    page.tab.locator("#stage .tile").nth(5).click()
    page.press("5")
    page.tab.keyboard.press("ArrowRight")
    page.press("4")
    page.press("Shift+Digit1")
    page.wait(f"document.querySelector('#stage canvas').dataset.row != {rows[0]}")
    graded = {d.cell + 4 * int(d.image_id[-5:]) - 1: d.grade for d in journal_of(tmp_path).standing.values()}
    assert [graded[row] for row in rows] == [1] * 5 + [5, 1, 4] + [1] * 4
    assert page.tab.inner_text("#progress-text") == "12 of 60"


@pytest.mark.parametrize(
    ("key", "code", "shift", "grades"),
    [
        ("&", "Digit1", False, [1]),  # AZERTY types its digits with Shift
        ("1", "Digit1", True, [1] * 12),
        ("+", "Digit1", False, [1]),  # Czech, too
        ("4", "Numpad4", False, [4]),
        ("ArrowLeft", "Numpad4", True, [4] * 12),
        ("2", "", False, [2]),  # a keyboard on the screen
    ],
)
def test_the_row_of_digits_counts_by_its_places(page, tmp_path, key, code, shift, grades):
    page.press("d")
    page.tab.wait_for_selector("#stage.grid")
    pressed = f"{{key: '{key}', code: '{code}', shiftKey: {str(shift).lower()}, bubbles: true}}"
    page.tab.evaluate(f"document.body.dispatchEvent(new KeyboardEvent('keydown', {pressed}))")
    page.wait(f"document.querySelector('#progress-text').textContent === '{len(grades)} of 60'")
    assert [d.grade for d in journal_of(tmp_path).decisions] == grades


@pytest.mark.parametrize("code", ["Digit1", "Digit3", "Digit4"])  # Swiss, Hungarian, Turkish
def test_plus_typed_as_a_shifted_digit_is_brightness(page, tmp_path, code):
    page.press("d")
    pressed = f"{{key: '+', code: '{code}', shiftKey: true, bubbles: true}}"
    page.tab.evaluate(f"document.body.dispatchEvent(new KeyboardEvent('keydown', {pressed}))")
    assert "1.15" in page.tab.inner_text("#look")
    page.press("5")
    assert [d.grade for d in journal_of(tmp_path).decisions] == [5]


def test_a_cell_without_an_answer_is_neither_graded_nor_skipped(page, tmp_path):
    page.tab.route("**/api/cell/*", lambda route: route.abort())
    page.tab.reload()
    page.tab.wait_for_selector("#stage .broken")
    for key in ("5", "s", "d", "s", "Shift+Digit1"):
        page.press(key)
        assert key == "d" or "reload the page" in page.tab.inner_text("#status")
    assert journal_of(tmp_path).decisions == []
    page.tab.unroute("**/api/cell/*")
    page.tab.reload()
    page.tab.wait_for_selector("#stage canvas")
    assert page.tab.locator("#stage .broken").count() == 0


def test_a_new_address_in_the_same_tab_opens_the_page(browser, data, tmp_path):
    with served_page(data, tmp_path / "grades") as address:
        tab = browser.new_page()
        tab.goto(address.split("#")[0] + "#old")
        tab.wait_for_selector("#status.bad")
        tab.goto(address)
        tab.wait_for_selector("#stage canvas")
        tab.close()


def test_the_view_changes_when_what_was_begun_is_done(page, tmp_path):
    held = []
    page.tab.route("**/api/state", lambda route: held.append(route))
    page.tab.reload()
    page.tab.keyboard.press("v")
    assert page.tab.inner_text("#status") == "" and not page.tab.is_visible("#review")
    page.until(lambda: len(held) == 1)
    held[0].continue_()
    page.wait("performance.getEntriesByName('key to paint').length == 1")
    assert page.tab.is_visible("#review")
    page.press("Escape")
    row = page.row()
    page.tab.route("**/api/grade", lambda route: held.append(route))
    page.tab.keyboard.press("5")
    for key in ("d", "v", "4", "v", "v"):
        page.tab.keyboard.press(key)
    page.until(lambda: len(held) == 2)
    assert page.tab.is_visible("#grading") and page.row() == row
    held[1].continue_()
    page.tab.wait_for_selector("#graded .tile")
    assert [d.grade for d in journal_of(tmp_path).decisions] == [5]


def damage_cell(folder, place, out):
    """Flip a byte in the record of the cell that is at a place of the queue; return its row."""
    session = make_session(Options(data=str(folder), class_=str(CLASS), out=str(out), grader="anna"))
    session.writer.close()
    row = session.state()["upcoming"][place]
    cells = session.cells
    with open(folder / cells.shards[cells.shard[row]], "r+b") as stream:
        stream.seek(int(cells.offset[row]) + 40)
        byte = stream.read(1)
        stream.seek(-1, 1)
        stream.write(bytes([byte[0] ^ 255]))
    return row


@pytest.mark.parametrize("view", ["one", "grid"])
def test_a_cell_that_cannot_be_shown_is_skipped_and_stops_nothing(browser, data, tmp_path, view):
    shutil.copytree(data, tmp_path / "data")
    bad = damage_cell(tmp_path / "data", 1, tmp_path / "before")
    with served_page(tmp_path / "data", tmp_path / "grades") as address:
        page = Page(browser, address)
        first = page.row()
        if view == "grid":
            page.press("d")
            page.tab.wait_for_selector("#stage.grid")
        page.press("5")
        assert page.tab.inner_text("#progress-text") == "1 of 60" and page.tab.inner_text("#status") == ""
        broken = page.tab.locator("#stage .broken")
        assert broken.get_attribute("data-row") == str(bad) and "no intact record" in broken.inner_text()
        page.press("4")
        assert "skip it with s" in page.tab.inner_text("#status") and len(journal_of(tmp_path).decisions) == 1
        if view == "grid":
            page.press("Shift+Digit1")
            assert page.tab.inner_text("#progress-text") == "11 of 60", "all that can be seen"
            page.tab.locator("#stage .tile").nth(1).click()
        page.press("s")
        page.wait("document.querySelectorAll('#stage .broken').length == 0")
        assert page.row() not in (first, bad) and page.tab.inner_text("#status") == ""
        page.press("v")
        page.wait("document.querySelectorAll('#graded .broken').length == 1")
        assert page.errors == []
        page.tab.close()
    decided = [(d.action, d.grade) for d in journal_of(tmp_path).decisions]
    assert decided[0] == ("grade", 5) and decided[-1] == ("skip", None) and len(decided) == (2 if view == "one" else 12)


def test_review_filters_and_corrects(page, tmp_path):
    for key in "512s1":
        page.press(key)
    page.press("v")
    page.wait("document.querySelectorAll('#graded .tile').length == 5")
    page.tab.select_option("#filter-grade", "grade=1")
    page.wait("document.querySelectorAll('#graded .tile').length == 2")
    page.tab.locator("#graded .tile").nth(1).click()
    page.press("4")
    page.wait("document.querySelectorAll('#graded .tile').length == 1")
    assert [d.grade for d in journal_of(tmp_path).standing.values()] == [5, 4, 2, None, 1]
    page.tab.select_option("#filter-grade", "")
    name = next(iter(journal_of(tmp_path).standing.values())).image_id
    page.tab.fill("#filter-text", name)
    page.wait(f"[...document.querySelectorAll('#graded figcaption')].every(e => e.textContent.includes('{name}'))")
    page.tab.keyboard.press("5")  # typed into the search box: no grade
    page.tab.keyboard.press("Escape")
    assert len(journal_of(tmp_path).decisions) == 6


def test_holding_a_key_grades_one_cell(page, tmp_path):
    page.tab.keyboard.down("3")
    for _ in range(5):
        page.tab.keyboard.down("3")  # the browser marks these as repeats
    page.tab.keyboard.up("3")
    page.wait("document.querySelector('#progress-text').textContent.startsWith('1 ')")
    time.sleep(0.2)
    assert len(journal_of(tmp_path).decisions) == 1


def test_space_clicks_a_focused_button_and_arrows_move_a_focused_slider(page, tmp_path):
    page.press("5")
    row = page.row()
    page.tab.focus("#look input[aria-label=brightness]")
    page.tab.keyboard.press("ArrowRight")
    page.tab.keyboard.press("ArrowRight")
    assert page.tab.evaluate("document.activeElement.value") == "1.1" and page.row() == row
    page.tab.focus("#look button[title=protein]")
    for pressed in ("false", "true"):
        page.tab.keyboard.press("Space")
        assert page.tab.get_attribute("#look button[title=protein]", "aria-pressed") == pressed
    page.tab.focus("#grades button:nth-child(4)")
    page.press("Space")
    page.tab.click("#grades button:nth-child(3)")
    page.wait("performance.getEntriesByName('key to paint').length == 3")
    page.press("Space")  # a button that was clicked has no focus
    page.press("2")
    page.press("v")
    page.wait("document.querySelectorAll('#graded .tile').length == 5")
    page.tab.focus("#older")
    page.tab.keyboard.press("Space")
    time.sleep(0.2)
    assert [d.grade for d in journal_of(tmp_path).decisions] == [5, 4, 3, None, 2]


def test_a_slider_follows_the_mouse(page):
    slider = page.tab.locator("#look input[aria-label=brightness]")
    box, values = slider.bounding_box(), []
    for x in (0.2, 0.4, 0.6, 0.8):
        page.tab.mouse.move(box["x"] + x * box["width"], box["y"] + box["height"] / 2)
        if not values:
            page.tab.mouse.down()
        values.append(float(slider.input_value()))
    page.tab.mouse.up()
    assert page.tab.evaluate("document.activeElement === document.body"), "arrows go back and forward again"
    assert values[0] < values[1] < values[2] < values[3]
    assert page.tab.evaluate("JSON.parse(localStorage.getItem('grading-look')).brightness") == values[3]


def test_channels_brightness_gamma_and_surroundings_change_the_picture(page, data):
    record_pixels = {}
    for keys in ("", "g", "g", "m", "m", "m", "+", "0", "]", "0", "r", "r", "o", "o"):
        if keys:
            page.tab.keyboard.press(keys)
        record_pixels.setdefault(keys, []).append(page.pixels())
    plain = record_pixels[""][0]
    green, back = record_pixels["g"]
    assert (green[:, 0] == green[:, 1]).all() and (green[:, 1] == green[:, 2]).all()  # one channel alone is grey
    np.testing.assert_array_equal(back, plain)
    black, full, dim = record_pixels["m"]
    assert (black[:, :3].max(axis=1) == 0).mean() > 0.3 > (full[:, :3].max(axis=1) == 0).mean()
    np.testing.assert_array_equal(dim, plain)
    assert record_pixels["+"][0].mean() > plain.mean() and record_pixels["]"][0].mean() > plain.mean()
    np.testing.assert_array_equal(record_pixels["0"][0], plain)
    no_red, red = record_pixels["r"]
    assert no_red[:, 0].sum() < red[:, 0].sum() and (no_red[:, 1] <= red[:, 1]).all()
    assert (record_pixels["o"][0] != plain).any()
    np.testing.assert_array_equal(record_pixels["o"][1], plain)


def test_the_picture_is_the_cell_of_the_table(page, data):
    """What is drawn is the crop at that row, channel by channel, at the same place."""
    row = page.row()
    table = cell_table.read(data / "cells.parquet")
    page.tab.keyboard.press("m")
    page.tab.keyboard.press("m")
    page.tab.keyboard.press("g")
    drawn = page.pixels()[:, 1].astype(float)
    from hpa_tf.grading.cells import read_cells

    record = read_cells(data, CLASS).record(row)
    assert (record["image_id"].decode(), record["cell"]) == tuple(table.loc[row, ["image_id", "cell"]])
    crop = cv2.imdecode(np.frombuffer(record["crop"], np.uint8), cv2.IMREAD_UNCHANGED)
    green = crop[..., 1].ravel().astype(float)
    assert np.corrcoef(drawn, green)[0, 1] > 0.999


def test_hostile_ids_are_text(browser, tmp_path):
    labels = np.stack([one_hot(CLASS)] * 20)
    write_dataset(tmp_path / "data", labels, cells_per_image=4, size=(40, 64), rename=HOSTILE)
    with served_page(tmp_path / "data", tmp_path / "grades") as address:
        page = Page(browser, address)
        seen = set()
        for _ in range(20):
            row = page.row()
            page.wait(f"document.querySelector('#context').dataset.row == {row}")
            seen.add(page.tab.text_content("#context-text").rpartition(", cell")[0])
            page.press("5")
        assert seen == set(HOSTILE)
        page.press("v")
        page.wait("document.querySelectorAll('#graded .tile').length == 20")
        assert page.tab.locator("#graded img").count() == 0 and page.errors == [] and page.elsewhere == []
        page.tab.close()
    assert {d.image_id for d in journal_of(tmp_path).decisions} == set(HOSTILE)


def test_another_site_cannot_grade(browser, data, tmp_path):
    """A page of another origin, in the same browser, even one that knows the token."""
    with served_page(data, tmp_path / "grades") as address, served_page(data, tmp_path / "b") as other:
        base, token = address.split("#")
        tab = browser.new_page()
        tab.goto(other)
        code = (
            "async ([base, token]) => { try { const r = await fetch(base + 'api/grade', {method: 'POST', headers: "
            "{'X-Grading-Token': token, 'Content-Type': 'application/json'}, body: '{\"rows\":[1],\"grade\":5,"
            '"seconds":null}\'}); return r.status } catch (error) { return String(error) } }'
        )
        assert "TypeError" in str(tab.evaluate(code, [base, token]))
        tab.close()
    assert journal_of(tmp_path).decisions == []

"""The desk in a real browser, headless: what readers do by keys and mouse, and what is saved."""

import math
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clients.annotations import counted_labels, counted_outlines
from clients.asked import Asked
from clients.consensus import dice_of
from clients.desk.desk import Desk
from clients.desk.door import Door
from clients.settings import SiteSettings
from clients.words import read_labels, read_mask_of, read_outlines
from tests.clients.desk.browser import WAIT_S, chromium, served
from tests.clients.reading import reading_site, reading_study

pytest.importorskip("selenium", reason="selenium drives the browser; it comes with .[dev]")
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

pytestmark = pytest.mark.timeout(600)
SIDE = 96


class Reader:
    """A reader at the desk."""

    def __init__(self, browser: Any, side: int = SIDE) -> None:
        self.browser, self.side = browser, side

    def enter(self, door: Door, name: str) -> None:
        self.browser.get(door.link)
        self.until(lambda: self.one("#who").get_attribute("open") is not None)
        self.one("#name").send_keys(name, Keys.ENTER)
        self.until(lambda: self.text("#reader") == name)
        self.until(lambda: self.text("#rank"))

    def one(self, selector: str) -> Any:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return str(self.one(selector).text)

    def keys(self, *keys: str) -> None:
        ActionChains(self.browser).send_keys(*keys).perform()

    def shift(self, digit: int) -> None:
        chain = ActionChains(self.browser)
        chain.key_down(Keys.SHIFT).send_keys(str(digit)).key_up(Keys.SHIFT).perform()

    def until(self, holds: Callable[[], Any]) -> None:
        end = time.monotonic() + WAIT_S
        while not self.now(holds):
            assert time.monotonic() < end, "the page did not come so far"
            time.sleep(0.02)

    @staticmethod
    def now(holds: Callable[[], Any]) -> bool:
        try:
            return bool(holds())
        except (NoSuchElementException, StaleElementReferenceException):
            return False  # the page is not there yet, or is being drawn anew

    def saved(self) -> None:
        """All that was said is on the disk; the page goes on before."""
        self.until(lambda: self.text("#saved") == "Saved")

    def place(self, x: float, y: float) -> tuple[int, int]:
        """Where an image's pixel lies, from the middle of the canvas: the image is fitted to it."""
        canvas = self.one("#canvas")
        width, height = canvas.size["width"], canvas.size["height"]
        scale = min((width - 24) / self.side, (height - 24) / self.side)
        return round((x - self.side / 2) * scale), round((y - self.side / 2) * scale)

    def click(self, *points: tuple[float, float]) -> None:
        chain = ActionChains(self.browser, duration=10)
        for point in points:
            chain.move_to_element_with_offset(self.one("#canvas"), *self.place(*point)).click()
        chain.perform()

    def drag(self, start: tuple[float, float], end: tuple[float, float], steps: int = 4) -> None:
        chain, canvas = ActionChains(self.browser, duration=10), self.one("#canvas")
        chain.move_to_element_with_offset(canvas, *self.place(*start)).click_and_hold()
        for part in range(1, steps + 1):
            share = part / steps
            x, y = (a + (b - a) * share for a, b in zip(start, end, strict=True))
            chain.move_to_element_with_offset(canvas, *self.place(x, y))
        chain.release().perform()

    def errors(self) -> list[str]:
        entries = self.browser.get_log("browser")
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SiteSettings:
    return reading_site(tmp_path_factory.mktemp("made"), side=SIDE)


@pytest.fixture
def site(made: SiteSettings, tmp_path: Path) -> SiteSettings:
    folder = tmp_path / "hillcrest"
    shutil.copytree(made.folder, folder)
    return made.model_copy(update={"folder": folder})


@pytest.fixture
def door(site: SiteSettings, request: pytest.FixtureRequest) -> Iterator[Door]:
    study = reading_study(**getattr(request, "param", {}))
    with served(Desk(site, Asked.of(study))) as found:
        yield found


@pytest.fixture
def reader(browser: Any, door: Door) -> Iterator[Reader]:
    found = Reader(browser)
    found.enter(door, "Dr A")
    yield found
    # Nothing failed to load, no script broke, and the page's own policy stopped nothing.
    assert found.errors() == []


outlining = pytest.mark.parametrize("door", [{"outlines": True}], indirect=True)


def test_labels_by_keys_skip_undo_reload(reader: Reader, site: SiteSettings) -> None:
    ids = [x.get_attribute("title") for x in reader.browser.find_elements(By.CSS_SELECTOR, ".id")]
    assert reader.text("#rank") == "No. 1"
    reader.keys("2")
    reader.until(lambda: reader.text("#rank") == "No. 2")
    reader.saved()
    assert counted_labels(site.folder) == {ids[0]: "malignant"}
    reader.keys("1")
    reader.until(lambda: reader.text("#rank") == "No. 3")
    reader.keys("u")
    reader.until(lambda: reader.text("#rank") == "No. 2")
    reader.saved()
    assert counted_labels(site.folder) == {ids[0]: "malignant"}
    assert reader.text("#progress") == "1 of 6 read"
    reader.keys("s")
    reader.until(lambda: reader.text("#rank") == "No. 3")
    last = reader.browser.find_elements(By.CSS_SELECTOR, "#list .id")[-1]
    assert last.get_attribute("title") == ids[1]
    for rank in ("No. 4", "No. 5", "No. 6", "No. 2"):
        reader.keys("1")
        reader.until(lambda rank=rank: reader.text("#rank") == rank)  # type: ignore[misc]
    reader.keys("1")
    reader.until(lambda: reader.one("#finished").is_displayed())
    reader.saved()
    assert counted_labels(site.folder) == dict.fromkeys(ids, "benign") | {ids[0]: "malignant"}
    reader.saved()
    reader.browser.refresh()
    reader.until(lambda: reader.text("#progress") == "6 of 6 read")
    assert reader.text("#reader") == "Dr A"
    reader.one("[data-tab=done]").click()
    reader.until(lambda: reader.text("#rank") == "No. 1")
    pressed = reader.one("#labels [aria-pressed=true]")
    assert pressed.get_attribute("data-label") == "malignant"


def test_keys_in_a_hurry_are_never_said_of_another_image(
    reader: Reader, site: SiteSettings
) -> None:
    """What is pressed while the next image is on its way is dropped, not said of either."""
    ids = [x.get_attribute("title") for x in reader.browser.find_elements(By.CSS_SELECTOR, ".id")]
    reader.keys(*"1212")
    reader.until(lambda: reader.text("#rank") != "No. 1")
    reader.saved()
    said = [(label.id, label.label) for label in read_labels(site.folder)]
    assert said[0] == (ids[0], "benign")
    assert len({id_ for id_, _ in said}) == len(said)


def test_a_click_does_not_keep_the_keyboard(reader: Reader, site: SiteSettings) -> None:
    """Else Enter after a click would label the next image, and the arrows would move a slider."""
    ids = [x.get_attribute("title") for x in reader.browser.find_elements(By.CSS_SELECTOR, ".id")]
    reader.one('[data-label="malignant"]').click()
    reader.until(lambda: reader.text("#rank") == "No. 2")
    reader.keys(Keys.ENTER)
    reader.until(lambda: reader.text("#rank") == "No. 3")
    reader.one("#level").click()
    before = reader.text("#filmtext"), reader.text("#corner")
    forth = int(reader.one("#frame").get_attribute("value")) < 3
    reader.keys(Keys.ARROW_DOWN if forth else Keys.ARROW_UP)
    reader.until(lambda: reader.text("#filmtext") != before[0])
    assert reader.text("#corner") == before[1]
    reader.saved()
    assert counted_labels(site.folder) == {ids[0]: "malignant"}


def test_frames_do_not_change_what_is_labelled(reader: Reader, site: SiteSettings) -> None:
    first = reader.one("#list .id").get_attribute("title")
    place = int(reader.one("#frame").get_attribute("value"))
    before = reader.text("#filmtext")
    reader.keys(Keys.ARROW_DOWN if place < 3 else Keys.ARROW_UP)
    reader.until(lambda: reader.text("#filmtext") != before)
    assert reader.one("#home").is_displayed()
    reader.keys("c")
    reader.until(lambda: reader.text("#filmtext") == before)
    reader.keys(Keys.ARROW_DOWN if place < 3 else Keys.ARROW_UP, "1")
    reader.until(lambda: reader.text("#rank") == "No. 2")
    reader.saved()
    assert counted_labels(site.folder) == {first: "benign"}


@outlining
def test_a_polygon_is_what_was_clicked_and_survives_a_reload(
    reader: Reader, site: SiteSettings
) -> None:
    points = [
        (48 + 25 * math.cos(turn), 40 + 15 * math.sin(turn))
        for turn in np.linspace(0, 2 * math.pi, 24, endpoint=False)
    ]
    reader.keys("p")
    reader.click(*points)
    reader.keys(Keys.ENTER)
    reader.saved()
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    wanted = ((columns - 48) / 25) ** 2 + ((rows - 40) / 15) ** 2 <= 1
    (line,) = read_outlines(site.folder)
    mask = read_mask_of(site.folder, line.outline, 0)
    assert dice_of(mask, wanted.astype(np.uint8)) > 0.96
    area = reader.text("#drawn")
    assert area == f"outlined: {int(mask.sum()):,} px"
    assert counted_labels(site.folder) == {}
    reader.keys("2")
    reader.until(lambda: reader.text("#rank") == "No. 2")
    assert reader.text("#drawn") == "Not outlined yet."
    reader.saved()
    reader.browser.refresh()
    reader.until(lambda: reader.text("#progress") == "1 of 6 read")
    reader.one("[data-tab=done]").click()
    reader.until(lambda: reader.text("#drawn") == area)


@outlining
def test_brush_eraser_and_undo_stroke_by_stroke(reader: Reader, site: SiteSettings) -> None:
    def mask() -> Any:
        reader.saved()
        lines = read_outlines(site.folder)
        return read_mask_of(site.folder, lines[0].outline, 0) if lines[0].outline else None

    reader.keys("b")
    reader.drag((20, 30), (70, 30))
    first = mask()
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    along = np.clip(columns, 20, 70)
    wanted = np.hypot(columns - along, rows - 30) <= 6
    assert dice_of(first, wanted.astype(np.uint8)) > 0.93
    reader.keys("e")
    reader.drag((45, 10), (45, 60))
    reader.until(lambda: mask()[30, 45] == 0)
    second = mask()
    assert 0 < second.sum() < first.sum()
    reader.keys("u")
    reader.until(lambda: np.array_equal(mask(), first))
    reader.keys("u")
    reader.until(lambda: mask() is None)
    assert reader.text("#drawn") == "Not outlined yet."
    reader.keys("x")
    reader.until(lambda: mask() is not None)
    assert mask().sum() == 0
    assert reader.text("#drawn") == "Nothing to outline here."
    reader.keys("1")
    reader.until(lambda: reader.text("#rank") == "No. 2")
    reader.keys("u")
    reader.until(lambda: reader.text("#rank") == "No. 1")
    reader.saved()
    assert [label.label for label in read_labels(site.folder)] == ["benign", ""]


@pytest.mark.parametrize(
    "door", [{"outlines": True, "classes": ["lesion", "shadow"]}], indirect=True
)
def test_two_classes_and_two_readers(reader: Reader, door: Door, site: SiteSettings) -> None:
    reader.keys("b")
    reader.drag((30, 30), (60, 30))
    reader.saved()
    reader.shift(2)
    reader.drag((30, 70), (60, 70))
    reader.until(lambda: "shadow" in reader.text("#drawn"))
    reader.saved()
    reader.keys("1")
    reader.until(lambda: reader.text("#rank") == "No. 2")
    reader.saved()
    reader.enter(door, "Dr B")
    assert reader.text("[data-tab=disputed] b") == "0"
    assert not reader.one("#words").is_displayed()
    reader.keys("b")
    reader.drag((30, 50), (60, 50))
    reader.saved()
    reader.keys("2")
    reader.until(lambda: reader.text("[data-tab=disputed] b") == "1")
    reader.saved()
    assert counted_labels(site.folder) == counted_outlines(site.folder) == {}
    reader.one("[data-tab=disputed]").click()
    reader.until(lambda: reader.one("#words").is_displayed())
    words = reader.text("#words")
    assert "Dr A\nbenign" in words
    assert "Dr B\nmalignant" in words
    assert "Dice of 0.00" in words
    reader.one('[data-take="Dr A"]').click()
    reader.until(lambda: counted_outlines(site.folder))
    reader.keys("2")
    reader.until(lambda: reader.text("[data-tab=disputed] b") == "0")
    reader.saved()
    assert list(counted_labels(site.folder).values()) == ["malignant"]
    (digest,) = counted_outlines(site.folder).values()
    assert set(np.unique(read_mask_of(site.folder, digest, 2))) == {0, 1, 2}


def test_grey_levels_zoom_and_pan_change_what_is_seen(reader: Reader) -> None:
    script = """
        const c = document.getElementById("canvas"), done = arguments[0];
        requestAnimationFrame(() => requestAnimationFrame(() => {
            const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
            let sum = 0, lit = 0;
            for (let i = 0; i < d.length; i += 4) { sum += d[i]; lit += d[i] > 0; }
            done([sum, lit]);
        }));
    """

    def seen() -> list[int]:
        return list(reader.browser.execute_async_script(script))

    before = seen()
    slider = reader.one("#level")
    slider.send_keys(*[Keys.ARROW_RIGHT] * 40)
    assert seen()[0] < before[0]  # a higher level is darker
    assert "Level 168" in reader.text("#corner")
    reader.one("#reset").click()
    reader.until(lambda: seen() == before)
    reader.one("#canvas").click()
    reader.keys("-", "-")
    assert seen()[1] < before[1] / 2
    reader.keys("f")
    assert seen() == before
    reader.drag((48, 48), (88, 48))  # without a tool the left button moves the image
    assert seen() != before
    reader.keys("f")
    actions: Any = ActionChains(reader.browser).w3c_actions
    actions.pointer_action.move_to(reader.one("#canvas"))
    actions.pointer_action.pointer_down(button=2)
    actions.pointer_action.move_by(0, -60)
    actions.pointer_action.pointer_up(button=2)
    actions.perform()
    assert "window 255" in reader.text("#corner")
    assert "Level 128" not in reader.text("#corner")


def test_sixteen_bits_in_the_browser(browser: Any, site: SiteSettings, tmp_path: Path) -> None:
    """Grey levels beyond a screen's 256 are told apart once the window is narrow."""
    data = tmp_path / "deep"
    shutil.copytree(site.data_root, data)
    deep = site.model_copy(update={"data_root": data})
    desk = Desk(deep, Asked.of(reading_study()))
    row = desk.pictures.rows[desk.wanted_id(0)]
    values = np.full((SIDE, SIDE), 2000, np.uint16)
    values[:, SIDE // 2 :] = 2004
    values[0, 0] = 4095
    Image.fromarray(values).save(row.image)
    script = """
        const c = document.getElementById("canvas"), y = c.height / 2, done = arguments[0];
        requestAnimationFrame(() => requestAnimationFrame(() => done([0.4, 0.6].map((x) =>
            c.getContext("2d").getImageData(c.width * x, y, 1, 1).data[0]))));
    """
    with served(desk) as door:
        reader = Reader(browser)
        reader.enter(door, "Dr A")
        assert reader.text("#corner") == "Level 2048 · window 4095"
        assert reader.browser.execute_async_script(script) == [125, 125]
        reader.browser.execute_script("""
            for (const [id, value] of [["level", 2000], ["width", 40]]) {
                const slider = document.getElementById(id);
                slider.value = value;
                slider.dispatchEvent(new Event("input"));
            }
        """)
        left, right = reader.browser.execute_async_script(script)
        assert right - left > 15
        assert reader.errors() == []


def test_a_desk_that_ended_is_said_and_nothing_is_shown_as_saved(
    browser: Any, site: SiteSettings
) -> None:
    reader = Reader(browser)
    with served(Desk(site, Asked.of(reading_study()))) as door:
        reader.enter(door, "Dr A")
    reader.keys("1")
    reader.until(lambda: reader.text("#saved") == "Not saved")
    assert "does not answer" in reader.text("#notice")
    assert reader.text("#rank") == "No. 1"
    assert read_labels(site.folder) == []
    reader.errors()


def test_all_that_is_pressed_has_a_name_and_contrast(reader: Reader) -> None:
    reader.keys("?")
    reader.until(lambda: reader.one("#keys").is_displayed())
    assert "say the label" in reader.text("#keys")
    reader.keys(Keys.ESCAPE)
    script = """
        const named = (e) => e.textContent.trim() || e.getAttribute("aria-label") ||
            (e.labels && e.labels.length) || e.getAttribute("title");
        const bare = [...document.querySelectorAll("button, input, canvas")]
            .filter((e) => !named(e)).map((e) => e.outerHTML);
        const luminance = (rgb) => {
            const [r, g, b] = rgb.map((v) => v / 255)
                .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
        const ground = (e) => {
            for (; e; e = e.parentElement) {
                const c = numbers(getComputedStyle(e).backgroundColor);
                if (c.length === 3 || c[3] === 1) return c.slice(0, 3);
            }
            return [10, 12, 15];
        };
        const pale = [];
        for (const e of document.querySelectorAll("body *")) {
            const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
            if (!own || !e.checkVisibility() || e.disabled) continue;
            const [a, b] = [numbers(getComputedStyle(e).color).slice(0, 3), ground(e)]
                .map(luminance).sort((x, y) => y - x);
            if ((a + 0.05) / (b + 0.05) < 4.5) pale.push(e.outerHTML);
        }
        return [bare, pale];
    """
    assert reader.browser.execute_script(script) == [[], []]


def test_the_cookie_is_out_of_reach_of_scripts(reader: Reader) -> None:
    assert reader.browser.execute_script("return document.cookie") == ""
    storage = "return [localStorage.length, sessionStorage.length]"
    assert reader.browser.execute_script(storage) == [0, 0]
    assert "token" not in reader.browser.current_url

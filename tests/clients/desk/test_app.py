"""The calls of the page, one by one: what they save, what they show, what they refuse."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from clients.annotations import (
    all_worklists,
    annotated,
    close_labels,
    counted_labels,
    counted_outlines,
    write_worklist,
)
from clients.asked import Asked
from clients.consensus import Rules, write_rules
from clients.data.readers import read_pillow
from clients.desk.app import make_app
from clients.desk.desk import Desk
from clients.desk.door import Door
from clients.settings import SiteSettings
from clients.words import read_decisions, read_labels, read_mask_of, read_outlines
from common.errors import InputError
from tests.clients.reading import reading_site, reading_study, rows_of

PORT = 4321
OWN = f"http://127.0.0.1:{PORT}"
WRITES = {"origin": OWN, "x-desk": "1"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SiteSettings:
    return reading_site(tmp_path_factory.mktemp("made"))


@pytest.fixture
def site(made: SiteSettings, tmp_path: Path) -> SiteSettings:
    """Its own copy, to be written into."""
    root = made.data_root.parent
    shutil.copytree(root, tmp_path / "site")
    moved = {
        name: tmp_path / "site" / getattr(made, name).relative_to(root)
        for name in ("data_root", "folder", "cache")
    }
    return made.model_copy(update=moved)


class Page:
    """A reader's browser."""

    def __init__(self, door: Door, reader: str = "Dr A") -> None:
        self.client = TestClient(door, base_url=OWN, raise_server_exceptions=True)
        self.client.get(door.link)
        if reader:
            assert self.post("/api/reader", name=reader).status_code == 200

    def get(self, path: str) -> Any:
        return self.client.get(path)

    def post(self, path: str, **body: Any) -> Any:
        return self.client.post(path, json=body, headers=WRITES)

    def image(self, n: int) -> Any:
        return self.get(f"/api/images/{n}").json()

    def label(self, n: int, label: str) -> Any:
        digest = self.image(n)["image_sha256"]
        return self.post(f"/api/images/{n}/label", label=label, image_sha256=digest)

    def decide(self, n: int, what: str, word: str) -> Any:
        digest = self.image(n)["image_sha256"]
        path = f"/api/images/{n}/decide"
        return self.post(path, what=what, word=word, image_sha256=digest)

    def draw(self, n: int, mask: np.ndarray | bytes | None) -> Any:
        headers = {**WRITES, "x-image-sha256": self.image(n)["image_sha256"]}
        path = f"/api/images/{n}/outline"
        if mask is None:
            return self.client.delete(path, headers=headers)
        content = mask if isinstance(mask, bytes) else mask.tobytes()
        return self.client.put(path, content=content, headers=headers)

    def undo(self) -> Any:
        return self.post("/api/undo").json()


def door_of(site: SiteSettings, **study: Any) -> Door:
    return Door(make_app(Desk(site, Asked.of(reading_study(**study)))), PORT)


@pytest.fixture
def door(site: SiteSettings) -> Door:
    return door_of(site, outlines=True)


@pytest.fixture
def page(door: Door) -> Page:
    return Page(door)


def box(left: int, side: int = 96) -> np.ndarray:
    mask = np.zeros((side, side), np.uint8)
    mask[20:50, left : left + 30] = 1
    return mask


def test_the_list_begins_with_the_most_wanted(page: Page, site: SiteSettings) -> None:
    desk = page.get("/api/desk").json()
    lists = all_worklists(site.folder)
    assert [image["id"] for image in desk["images"]] == [c.id for c in lists["dual", "50"]]
    first = desk["images"][0]
    assert (first["rank"], first["mine"], first["label_state"]) == (1, "", "open")
    assert first["reason"] == lists["dual", "50"][0].reason
    assert first["lists"] == [["dual", "20"], ["dual", "50"]]
    assert desk["images"][5]["lists"] == [["dual", "50"]]
    assert (desk["site"], desk["study"], desk["reader"]) == ("hillcrest", "breast_reading", "Dr A")
    assert desk["labels"] == ["benign", "malignant"]
    assert desk["outlines"]
    assert desk["progress"] == {"all": 6, "mine": 0, "skipped": 0, "counted": 0, "disputed": 0}


def test_pixels_are_the_files_own(page: Page, site: SiteSettings) -> None:
    rows = {row.id: row for row in rows_of(site)}
    image = page.image(2)
    row = rows[image["id"]]
    answer = page.get(f"/api/images/2/pixels/{image['sequence']['at']}")
    grey = read_pillow(row.image)
    assert answer.content == grey.tobytes()
    assert (image["height"], image["width"]) == grey.shape
    head = {name: answer.headers[f"x-{name}"] for name in ("height", "width", "depth", "white")}
    assert head == {"height": "96", "width": "96", "depth": "8", "white": "255"}
    assert answer.headers["cache-control"] == "no-store"


def test_frames_are_those_of_its_video_in_order(page: Page, site: SiteSettings) -> None:
    rows = {row.id: row for row in rows_of(site)}
    image = page.image(1)
    row, sequence = rows[image["id"]], image["sequence"]
    frames = sorted(r.frame or 0 for r in rows.values() if r.video == row.video)
    assert sequence["kind"] == "video"
    assert sequence["names"] == [str(frame) for frame in frames]
    assert sequence["names"][sequence["at"]] == str(row.frame)
    other = next(r for r in rows.values() if r.video == row.video and r.frame == frames[-1])
    answer = page.get(f"/api/images/1/pixels/{len(frames) - 1}")
    assert answer.content == read_pillow(other.image).tobytes()
    assert page.get(f"/api/images/1/pixels/{len(frames)}").status_code == 404


@pytest.mark.parametrize("dtype", [np.uint16, np.uint8])
def test_sixteen_bits_stay_sixteen(site: SiteSettings, dtype: Any) -> None:
    row = rows_of(site)[0]
    values = (np.arange(96 * 96).reshape(96, 96) % 4000).astype(np.uint16)
    pixels = values if dtype is np.uint16 else (values >> 4).astype(np.uint8)
    Image.fromarray(pixels).save(row.image)
    picture = Desk(site, Asked.of(reading_study())).pictures.picture(row)
    assert (picture.depth, picture.white) == ((16, 4095) if dtype is np.uint16 else (8, 255))
    assert picture.content() == pixels.tobytes()


def test_a_label_is_saved_at_once_where_the_study_looks(page: Page, site: SiteSettings) -> None:
    answer = page.label(0, "malignant").json()
    assert answer["item"]["mine"] == "malignant"
    assert not answer["item"]["done"]  # it is to be outlined too
    assert page.image(0)["time"]
    (label,) = read_labels(site.folder)
    assert (label.label, label.reader) == ("malignant", "Dr A")
    assert label.image_sha256 == page.image(0)["image_sha256"]
    assert annotated(site.folder, "dual", 0.2)[1] == ["malignant"]
    assert page.draw(0, box(10)).json()["item"]["done"]
    assert page.get("/api/desk").json()["progress"]["mine"] == 1


def test_an_outline_is_saved_and_comes_back(page: Page, site: SiteSettings) -> None:
    assert page.get("/api/images/3/outline").status_code == 204
    mask = box(30)
    assert page.draw(3, mask).status_code == 200
    assert page.get("/api/images/3/outline").content == mask.tobytes()
    id_ = page.image(3)["id"]
    digest = counted_outlines(site.folder)[id_]
    assert np.array_equal(read_mask_of(site.folder, digest, 0), mask)
    page.draw(3, np.zeros_like(mask))  # nothing to outline is a word too
    assert page.image(3)["outlined"]
    page.draw(3, None)
    assert not page.image(3)["outlined"]
    assert counted_outlines(site.folder) == {}
    assert len(read_outlines(site.folder)) == 1


@pytest.mark.parametrize("mask", [b"", b"\x01" * 95, b"\x02" * 96 * 96])
def test_an_outline_of_another_size_or_class(page: Page, site: SiteSettings, mask: bytes) -> None:
    assert page.draw(0, mask).status_code == 404
    assert page.draw(0, b"\x01" * (96 * 96 + 1)).status_code == 413
    assert not (site.folder / "outlines").exists()


def test_classes_are_kept_apart(site: SiteSettings) -> None:
    page = Page(door_of(site, outlines=True, classes=["lesion", "shadow"]))
    mask = box(10)
    mask[60:, :] = 2
    page.draw(0, mask)
    (line,) = read_outlines(site.folder)
    assert np.array_equal(read_mask_of(site.folder, line.outline, 2), mask)
    assert page.draw(0, np.full_like(mask, 3)).status_code == 404


def test_undo_goes_back_step_by_step(page: Page, site: SiteSettings) -> None:
    page.label(0, "benign")
    page.label(0, "malignant")
    page.post("/api/images/1/skip", skipped=True)
    assert page.get("/api/desk").json()["images"][1]["skipped"]
    assert [page.undo()["n"] for _ in range(2)] == [1, 0]
    assert not page.image(1)["skipped"]
    assert page.image(0)["mine"] == "benign"
    assert page.undo()["item"]["mine"] == ""
    assert page.undo()["n"] is None
    assert counted_labels(site.folder) == {}
    assert len(read_labels(site.folder)) == 4  # all that was said is kept, in order


def test_a_skipped_image_comes_back_when_it_is_labelled(page: Page) -> None:
    page.post("/api/images/1/skip", skipped=True)
    assert not page.label(1, "benign").json()["item"]["skipped"]


def test_two_readers_read_blind_and_somebody_decides(
    page: Page, door: Door, site: SiteSettings
) -> None:
    other, third = Page(door, "Dr B"), Page(door, "Dr C")
    page.label(0, "benign")
    page.draw(0, box(10))
    assert other.image(0)["mine"] == ""
    assert other.get("/api/images/0/words").status_code == 404
    assert other.get("/api/images/0/outline").status_code == 204
    assert other.get("/api/images/0/outline?reader=Dr A").status_code == 404
    assert "benign" not in str(other.image(0))
    assert other.decide(0, "label", "benign").status_code == 404
    answer = other.label(0, "malignant").json()
    assert answer["item"]["label_state"] == "disputed"
    assert answer["progress"]["disputed"] == 1
    other.draw(0, box(60))
    words = third.get("/api/images/0/words").json()
    said = [(x["reader"], x["label"]) for x in words["labels"]]
    assert said == [("Dr A", "benign"), ("Dr B", "malignant")]
    assert words["dice"] == [{"readers": ["Dr A", "Dr B"], "dice": 0.0}]
    assert third.get("/api/images/0/outline?reader=Dr B").content == box(60).tobytes()
    assert counted_labels(site.folder) == counted_outlines(site.folder) == {}
    assert third.decide(0, "label", "malignant").json()["item"]["label_state"] == "decided"
    assert third.decide(0, "outline", "Dr A").json()["progress"]["disputed"] == 0
    id_ = page.image(0)["id"]
    assert counted_labels(site.folder) == {id_: "malignant"}
    assert np.array_equal(read_mask_of(site.folder, counted_outlines(site.folder)[id_], 0), box(10))
    words = third.get("/api/images/0/words").json()
    assert [x["counts"] for x in words["outlines"]] == [True, False]
    assert third.undo()["what"] == "decide outline"
    assert third.undo()["item"]["label_state"] == "disputed"
    assert [(d.what, bool(d.word)) for d in read_decisions(site.folder)] == [
        ("label", True), ("outline", True), ("outline", False), ("label", False),
    ]  # fmt: skip


def test_as_many_readers_as_the_site_asks_for(page: Page, door: Door, site: SiteSettings) -> None:
    write_rules(site.folder, Rules(readers=2))
    assert page.label(0, "benign").json()["item"]["label_state"] == "waiting"
    assert page.get("/api/desk").json()["progress"]["counted"] == 0
    other = Page(door, "Dr B")
    answer = other.label(0, "benign").json()
    assert (answer["item"]["label_state"], answer["progress"]["counted"]) == ("agreed", 1)


def test_where_outlines_are_waited_for(page: Page, site: SiteSettings) -> None:
    write_rules(site.folder, Rules(outlines=True))
    assert page.label(0, "benign").json()["progress"]["counted"] == 0
    assert page.draw(0, box(1)).json()["progress"]["counted"] == 1
    assert list(counted_labels(site.folder)) == [page.image(0)["id"]]


def test_a_file_that_changed_while_it_was_looked_at(page: Page, site: SiteSettings) -> None:
    image = page.image(0)
    row = next(row for row in rows_of(site) if row.id == image["id"])
    Image.fromarray(np.zeros((96, 96), np.uint8)).save(row.image)
    digest = image["image_sha256"]
    answer = page.post("/api/images/0/label", label="benign", image_sha256=digest)
    assert answer.status_code == 409
    headers = {**WRITES, "x-image-sha256": digest}
    content = box(1).tobytes()
    answer = page.client.put("/api/images/0/outline", content=content, headers=headers)
    assert answer.status_code == 409
    assert "nothing was saved" in answer.text
    assert read_labels(site.folder) == []
    assert page.label(0, "benign").status_code == 200  # as it is shown now


def test_what_the_page_never_sends(page: Page, site: SiteSettings) -> None:
    digest = page.image(0)["image_sha256"]
    assert page.label(0, "cyst").status_code == 404
    good = {"label": "benign", "image_sha256": digest}
    for body in ({}, {**good, "label": 3}, {**good, "x": 1}):
        assert page.post("/api/images/0/label", **body).status_code == 400
    assert page.post("/api/images/0/label", label="b" * 20_000, image_sha256="").status_code == 413
    for path in ("/api/images/6", "/api/images/-1", "/static/desk.py", "/static/..%2fapp.py", "/x"):
        assert page.get(path).status_code == 404
    assert page.decide(0, "mask", "benign").status_code == 404
    assert page.get("/api/images/0/label").status_code == 405
    assert read_labels(site.folder) == []


@pytest.mark.parametrize("name", ["", "  ", "a,b", 'Dr "A"', "x" * 61, "a\nb\x00", "manifest"])
def test_a_name_that_is_none(door: Door, name: str) -> None:
    page = Page(door, "")
    assert page.post("/api/reader", name=name).status_code == 400
    answer = page.label(0, "benign")
    assert answer.status_code == 400
    assert answer.text == "say who reads first"


def test_a_name_is_kept_tidy_and_offered_again(door: Door) -> None:
    page = Page(door, "  Dr   Ü ")
    page.label(0, "benign")
    assert Page(door, "").get("/api/desk").json()["readers"] == ["Dr Ü"]


def test_a_full_disk_is_said(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    digest = page.image(0)["image_sha256"]
    monkeypatch.setattr("clients.words.write_table", full)
    answer = page.post("/api/images/0/label", label="benign", image_sha256=digest)
    assert (answer.status_code, answer.text) == (507, "Not saved: No space left on device")
    assert page.undo()["n"] is None


def test_after_the_study_went_on(page: Page, site: SiteSettings) -> None:
    page.label(0, "benign")
    close_labels(site.folder)
    assert page.get("/api/desk").json()["closed"]
    assert page.label(1, "benign").json()["progress"]["counted"] == 1
    assert len(read_labels(site.folder)) == 2


def test_a_worklist_that_came_meanwhile(page: Page, site: SiteSettings) -> None:
    lists = all_worklists(site.folder)["dual", "50"]
    known = {choice.id for choice in lists}
    new = next(row.id for row in rows_of(site) if row.id not in known)
    before = [page.image(n)["id"] for n in range(6)]
    write_worklist(site.folder, "random", 0.2, [type(lists[0])(new, 1, "Drawn by lot.")])
    desk = page.get("/api/desk").json()
    assert len(desk["images"]) == 7
    # An open page knows its images by their places: what is said of one stays with it.
    assert [image["id"] for image in desk["images"]] == [*before, new]
    assert {image["reason"] for image in desk["images"] if image["id"] == new} == {"Drawn by lot."}


def test_a_desk_without_work(site: SiteSettings) -> None:
    asked = Asked.of(reading_study())
    shutil.rmtree(site.folder)
    with pytest.raises(InputError, match="has selected no image yet"):
        Desk(site, asked)


def test_a_manifest_that_lost_an_image(site: SiteSettings) -> None:
    index = site.data_folder / "index.csv"
    wanted = all_worklists(site.folder)["dual", "20"][0].id
    lines = [line for line in index.read_text().splitlines() if wanted not in line]
    index.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match="no longer names the image"):
        Desk(site, Asked.of(reading_study()))


def test_the_page_needs_nothing_from_elsewhere(page: Page) -> None:
    text = page.get("/").text
    static = Path(__file__).parents[3] / "clients" / "desk" / "static"
    assert "<!doctype html>" in text
    for path in static.iterdir():
        content = path.read_text()
        outside = set(re.findall(r"""(?:https?:|["'(])//[^\s"'`)]+""", content))
        assert outside <= {"http://www.w3.org/2000/svg"}  # a name, not an address
        answer = page.get(f"/static/{path.name}")
        assert answer.text == content
        assert answer.headers["content-type"].startswith(("text/", "image/svg"))
    assert "<script>" not in text
    assert " style=" not in text
    assert " onclick" not in text

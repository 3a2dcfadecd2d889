import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from clients.evaluation import Prediction, score_arms
from clients.pictures import make_cases
from clients.report import choose, rank, write_report
from common.formats import EpochLine

COUNT, SIDE = 20, 64
ARMS = {"ensemble": 0.10, "mim": 0.2, "contrastive": 0.22, "lower": 0.4}


def scene(classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Speckle with a bright oval a class: images uint8 (n, H, W), masks (n, C, H, W)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    images = np.zeros((COUNT, SIDE, SIDE))
    masks = np.zeros((COUNT, classes, SIDE, SIDE), np.uint8)
    for n in range(COUNT):
        for c in range(classes):
            row, column = rng.uniform(0.3, 0.7) * SIDE, (c + 0.5) / classes * SIDE
            inside = ((y - row) / 9) ** 2 + ((x - column) / (20 / classes)) ** 2 <= 1
            masks[n, c] = inside
            images[n] += inside * 0.5
        images[n] += gaussian_filter(rng.rayleigh(0.5, (SIDE, SIDE)), 0.7)
    return np.clip(images * 130, 0, 255).astype(np.uint8), masks


def guess(masks: np.ndarray, amount: float, seed: int) -> np.ndarray:
    """Probabilities that miss the mask by a smooth error growing with the image's number."""
    rng = np.random.default_rng(seed)
    error = gaussian_filter(rng.normal(size=masks.shape), (0, 0, 4, 4)) * 14 * amount
    grow = np.linspace(0.3, 2, len(masks))[:, None, None, None]
    soft = gaussian_filter(masks.astype(float), (0, 0, 1.2, 1.2))
    return np.asarray(np.clip(soft + error * grow, 0, 1))


def content(*, classes: int = 1, referenced: bool = True) -> dict[str, Any]:
    images, masks = scene(classes)
    fused = {arm: guess(masks, amount, n) for n, (arm, amount) in enumerate(ARMS.items())}
    members = {"mim/finetune_mim": fused["mim"], "contrastive/finetune": fused["contrastive"]}
    names = [f"p{n // 4}_{n:03d}" for n in range(COUNT)]
    class_names = ("metaphysis", "epiphysis")[:classes] if classes > 1 else ()
    predictions = {arm: Prediction(p) for arm, p in fused.items()}
    predictions["ensemble"] = Prediction(fused["ensemble"], tuple(members.values()))
    scores = score_arms(
        predictions,
        masks if referenced else None,
        images=names,
        clusters=np.arange(COUNT) // 4,
        main="ensemble",
        classes=class_names,
        samples=200,
    )
    shown = [names.index(name) for name in choose(scores.table, "ensemble", 6)]
    epochs = [
        EpochLine(training=t, stage=t, round=r, epoch=e, loss=1 / (r * 3 + e), seconds=1.0)
        for t in ("mim/mim", "contrastive/contrastive")
        for r in (1, 2, 2)  # the second round ran twice
        for e in (1, 2, 3)
    ]
    return {
        "site": "pocket",
        "role": "target",
        "unit": "patient",
        "study": "demo",
        "digest": "5f0c" * 16,
        "synthetic": True,
        "main": "ensemble",
        "metrics": scores.metrics,
        "table": scores.table,
        "cases": make_cases(
            [names[n] for n in shown],
            images[shown],
            masks[shown] if referenced else None,
            {arm: p[shown] for arm, p in fused.items()},
            {member: p[shown] for member, p in members.items()},
        ),
        "epochs": epochs,
        "classes": class_names,
    }


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.unnamed = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "meta":
            self.open.append(tag)
        given = dict(attrs)
        self.links += [v or "" for k, v in attrs if k in ("href", "src")]
        self.ids += [given["id"] or ""] if "id" in given else []
        self.unnamed += given.get("role") == "img" and not given.get("aria-label")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_worst_of_several_patients_and_a_few_up_to_the_best() -> None:
    given = content()
    ranked = rank(given["table"], "ensemble")
    order = [row["image"] for row in ranked]
    chosen = choose(given["table"], "ensemble", 6)
    assert len(chosen) == 6
    assert chosen == sorted(chosen, key=order.index)
    assert (chosen[0], chosen[-1]) == (order[0], order[-1])
    of = {row["image"]: row["cluster"] for row in ranked}
    worst_of_each = {of[image]: image for image in reversed(order)}
    assert len(set(chosen) & set(worst_of_each.values())) >= 3
    assert choose(given["table"], "ensemble", 100) == order
    assert choose(given["table"], "ensemble", 1) == order[:1]


def test_weights_of_the_cases_are_the_infusion_heads() -> None:
    case = content()["cases"][0]
    total = sum(case.weights_CHW.values())
    assert total == pytest.approx(np.ones_like(total))
    assert all(c.min() >= 0 and c.max() <= 1 for c in case.confidence_CHW.values())


def test_one_file_that_says_where_it_stays(tmp_path: Path) -> None:
    text = write_report(tmp_path, **content()).read_text()
    page = Page(text)
    assert page.open == []
    assert page.unnamed == 0
    assert len(page.ids) == len(set(page.ids))
    assert {link[:15] for link in page.links if not link.startswith("#")} == {"data:image/png;"}
    assert all(link[1:] in page.ids for link in page.links if link.startswith("#case"))
    assert text.index("Stays at this site") < text.index("<main>")
    assert "Synthetic images" in text
    assert "<script" not in text
    assert "weight of mim" in text
    assert len(re.findall('class="case"', text)) == 12  # six galleries, six fusions
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    first = write_report(tmp_path, **content()).read_bytes()
    assert write_report(tmp_path, **content()).read_bytes() == first


def test_without_a_reference_nothing_is_called_accuracy(tmp_path: Path) -> None:
    text = write_report(tmp_path, **content(referenced=False)).read_text()
    Page(text)
    assert "No reference masks here" in text
    assert "Branch agreement" in text
    assert "reference (dashed" not in text
    assert "HD95" not in text


def test_classes_have_colours_and_names(tmp_path: Path) -> None:
    text = write_report(tmp_path, **content(classes=2)).read_text()
    Page(text)
    assert "metaphysis" in text
    assert "averaged over the classes" in text


def test_without_test_cases_or_epochs(tmp_path: Path) -> None:
    given = content() | {"cases": [], "epochs": []}
    text = write_report(tmp_path, **given).read_text()
    Page(text)
    assert "Every test image" in text
    assert "Local training" not in text

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clients.evaluation import ArmScores, summarise
from common.errors import InputError
from common.formats import Role, Unit, dump_line
from server.report import write_report
from server.results import build_results, write

ARMS = {
    "ensemble": 0.72,
    "ensemble_adapted": 0.76,
    "mim": 0.705,
    "contrastive": 0.69,
    "lower": 0.64,
    "upper": 0.8,
}
ROLES: dict[str, Role] = {
    "pocket": "target",
    "convex": "target",
    "village": "target",
    "cart": "source",
}
UNITS: dict[str, Unit] = {"cart": "patient", "pocket": "patient", "convex": "image"}
SHIFT = {"cart": 0.15, "pocket": 0.0, "convex": -0.08}
TRAININGS = (
    ("mim/mim", "mim", 6, ("pocket", "convex", "village"), 0.2),
    ("contrastive/contrastive", "contrastive", 6, ("pocket", "convex", "village"), 4.1),
    ("mim/finetune_mim", "finetune_mim", 4, ("cart",), 0.9),
    ("contrastive/finetune_contrastive", "finetune_contrastive", 4, ("cart",), 0.9),
    ("lower/lower", "lower", 4, ("cart",), 1.0),
    ("upper/upper", "upper", 4, ("pocket", "convex"), 1.0),
    ("ensemble_adapted/adapt", "adapt", 3, ("pocket", "convex", "village"), 0.4),
)


def evaluation(site: str, rng: np.random.Generator) -> dict[str, float]:
    images, patients = 60, np.arange(60) // 5
    unknown = np.full((images, 1), np.nan)
    hardness = rng.normal(0, 0.06, 12)[patients]
    arms = {}
    for arm, mean in ARMS.items():
        known = site in SHIFT
        shift = SHIFT.get(site, 0.0) * (0.4 if arm == "upper" and site != "cart" else 1)
        dice = mean + shift + hardness + rng.normal(0, 0.05, images)
        dice = np.clip(dice, 0.02, 0.98)[:, None]
        arms[arm] = ArmScores(
            dice=dice if known else unknown,
            iou=dice / (2 - dice) if known else unknown,
            hd95=40 * (1 - dice) if known else unknown,
            agreement=dice if arm.startswith("ensemble") else unknown,
            confidence=0.6 + dice / 3,
            area=dice / 9,
            area_reference=unknown,
        )
    clusters = np.arange(60) if UNITS.get(site) == "image" else patients
    return summarise(arms, clusters, main="ensemble", samples=300)


def fake_run(run: Path, *, finished: bool = True) -> Path:
    """A run folder as a study on four sites would leave it; numbers made up."""
    run.mkdir(parents=True)
    rng = np.random.default_rng(4)
    digest = "5f0c" * 16
    config = {"name": "demo", "seed": 0, "sites": {s: {"role": r} for s, r in ROLES.items()}}
    (run / "study.json").write_text(json.dumps(config))
    events: list[dict[str, Any]] = [
        {
            "event": "study",
            "name": "wrist phantom demo",
            "digest": digest,
            "seed": 0,
            "sites": ROLES,
            "arms": list(ARMS),
            "trainings": [
                {"key": key, "stage": stage, "rounds": rounds, "participants": list(sites)}
                for key, stage, rounds, sites, _ in TRAININGS
            ],
            "synthetic": True,
            "time": 0.0,
        }
    ]
    for n, site in enumerate(ROLES):
        counts = {"images": 480 + 40 * n, "patients": 0 if site == "convex" else 24, "test": 60}
        events.append(
            {
                "event": "enrol",
                "site": site,
                "counts": counts,
                "unit": UNITS.get(site, "patient"),
                "time": 1.0,
            }
        )
    traffic = {site: {"down": 11_400_000, "up": 4_000} for site in ROLES}
    for key, stage, rounds, sites, start in TRAININGS:
        for number in range(1, rounds + 1):
            loss = start * (0.35 + 0.65 * 0.72**number)
            refused = key == "mim/mim" and number == 3
            for n, site in enumerate(sites):
                up = 11_500_000
                traffic[site]["down"] += up
                traffic[site]["up"] += up
                events.append(
                    {
                        "event": "reply",
                        "training": key,
                        "stage": stage,
                        "round": number,
                        "rounds": rounds,
                        "site": site,
                        "loss": loss * (1 + 0.12 * n) * float(rng.normal(1, 0.02)),
                        "examples": 300,
                        "bytes_down": up,
                        "bytes_up": up,
                        "seconds": 4.2,
                        "metrics": {},
                        "time": 2.0,
                    }
                )
            events.append(
                {
                    "event": "round",
                    "training": key,
                    "stage": stage,
                    "round": number,
                    "rounds": rounds,
                    "loss": loss,
                    "val_loss": loss * 1.15 if stage in ("finetune_mim", "lower") else None,
                    "sites": list(sites)[: len(sites) - refused],
                    "refused": {"village": "encoder.blocks.0.weight holds NaN"} if refused else {},
                    "seconds": 9.0,
                    "time": 3.0,
                }
            )
    for site in ROLES:
        events.append(
            {
                "event": "predict",
                "member": "lower/lower",
                "site": site,
                "bytes_down": 11_400_000,
                "seconds": 3.0,
                "time": 3.5,
            }
        )
    if not finished:
        events = events[:40]
    else:
        events.append({"event": "end", "status": "finished", "seconds": 412.0, "time": 4.0})
        results = build_results(
            study="wrist phantom demo",
            digest=digest,
            seed=0,
            synthetic=True,
            machine={"cpu": "2 cores", "memory_gb": 8, "python": "3.11.2", "torch": "2.14.1"},
            main="ensemble",
            arms=list(ARMS),
            roles=ROLES,
            units={**UNITS, "village": "patient"},
            evaluations={site: evaluation(site, rng) for site in ROLES},
            traffic=traffic,
            notes=["Contrastive: 1,204 of 65,280 pairs masked by the frame gap."],
        )
        write(results, run / "results.json")
    (run / "metrics.jsonl").write_text("".join(dump_line(event) + "\n" for event in events))
    return run


class Page(HTMLParser):
    """Well-formedness, ids, what would be fetched."""

    VOID = frozenset({"meta", "link", "br", "img", "input", "hr", "wbr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        given = dict(attrs)
        self.ids += [given["id"] or ""] if "id" in given else []
        self.links += [v or "" for k, v in attrs if k in ("href", "src", "xlink:href", "srcset")]
        if tag == "svg" and given.get("role") == "img":
            assert given.get("aria-label")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_run(tmp_path_factory.mktemp("run") / "demo-5f0c5f0c")


def test_one_file_that_fetches_nothing_and_holds_no_pixel(run: Path) -> None:
    text = write_report(run).read_text()
    page = Page(text)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert all(link.startswith("#") for link in page.links)
    assert not {"script", "img", "image", "iframe", "link", "canvas"} & set(page.tags)
    assert "url(http" not in text
    assert "@import" not in text
    assert "data:" not in text
    assert len(text) < 600_000


def test_the_same_run_gives_the_same_bytes(run: Path) -> None:
    assert write_report(run).read_bytes() == write_report(run).read_bytes()


def test_what_a_reader_looks_for_is_there(run: Path) -> None:
    text = write_report(run).read_text()
    results = json.loads((run / "results.json").read_text())
    words = re.sub(r"<[^>]+>", " ", text)
    dice = results["arms"]["ensemble"]["targets"]["dice"]["mean"]
    assert f"{dice:.3f}" in words
    assert "Synthetic images" in words
    assert "no reference" in words
    assert "encoder.blocks.0.weight holds NaN" in words
    assert "1,204 of 65,280 pairs masked" in words
    assert results["digest"] in words
    closed = results["arms"]["ensemble"]["sites"]["pocket"]["gap_closure"]
    assert f"{100 * closed:.0f}\u202f% of the gap at pocket" in words
    assert "6 min 52 s" in words
    assert "fe01" not in text.replace(results["digest"], "")  # no stand-in colour is left


def test_a_study_under_way_shows_what_there_is(tmp_path: Path) -> None:
    text = write_report(fake_run(tmp_path / "run", finished=False)).read_text()
    Page(text)
    assert "under way" in text
    assert "Loss per round" in text
    assert "Comparisons" not in text


def test_not_a_run_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a run folder"):
        write_report(tmp_path)
    (tmp_path / "study.json").write_text("{}")
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(InputError, match="no study event"):
        write_report(tmp_path)


def test_names_are_escaped(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run", finished=False)
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(text.replace("wrist phantom demo", "<b>&wrist"))
    page = write_report(run).read_text()
    assert "&lt;b&gt;&amp;wrist" in page
    assert "<b>&wrist" not in page


def test_a_study_of_representations_is_told_in_its_own_metric(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run")
    text = (run / "results.json").read_text()
    results = json.loads(text.replace('"dice"', '"recall_at_1"').replace('"iou"', '"probe_auroc"'))
    for arm in results["arms"].values():
        for site in arm["sites"].values():
            site["gap_closure"] = None
            site.pop("hd95", None)
        arm["targets"].pop("hd95", None)
    results["comparisons"] = [c for c in results["comparisons"] if c["metric"] != "hd95"]
    (run / "results.json").write_text(json.dumps(results))
    text = write_report(run).read_text()
    Page(text)
    words = re.sub(r"<[^>]+>", " ", text)
    assert "reaches a Recall at 1 of" in words
    assert "Probe AUROC" in words
    assert "masks. That" not in words
    assert "Gap closed" not in words
    assert "HD95" not in words


def test_a_refusal_said_twice_is_told_once(run: Path, tmp_path: Path) -> None:
    again = fake_run(tmp_path / "run")
    line = {
        "event": "refused",
        "training": "mim/mim",
        "round": 3,
        "site": "village",
        "reason": "encoder.blocks.0.weight holds NaN",
        "time": 3.0,
    }
    with (again / "metrics.jsonl").open("a") as file:
        file.write(dump_line(line) + "\n")
    assert write_report(again).read_text() == write_report(run).read_text()

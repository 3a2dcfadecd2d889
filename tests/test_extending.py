"""docs/extending.md does what it says: its blocks are written to a package and run."""

import json
import math
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from clients.app import SITES_VARIABLE
from clients.strategies.registry import check_strategy, strategy_of
from common.config.load import parse_study
from common.config.study import Study
from common.errors import InputError
from common.own_parts import check_own_parts
from common.plugins import FOLDER_VARIABLE, load_plugin, look_in
from scripts.simulate import Engine, run_study_here
from server.aggregation import OwnRule, make_rule
from server.context import StudyStopped
from tests.clients.strategies.pools import pool_of

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
BLOCKS = re.findall(r"^```(python|toml)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
PARTS = {text.splitlines()[0].removeprefix("# "): text for kind, text in BLOCKS if kind == "python"}
TABLES = [text for kind, text in BLOCKS if kind == "toml"]
SELECTING = next(text for text in TABLES if text.startswith("arms"))
SIDE, FRAMES, PATIENTS = 32, 2, 6


@pytest.fixture
def study_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the page's package, looked into as `sonofed simulate` would."""
    for name, text in PARTS.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    (tmp_path / "ourparts" / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv(FOLDER_VARIABLE, "")
    monkeypatch.setenv(SITES_VARIABLE, "")
    look_in(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "ourparts"]:
        del sys.modules[name]


def tables(**changes: Any) -> dict[str, Any]:
    """The smallest study that every part of the page takes part in."""
    study: dict[str, Any] = {
        "name": "extended",
        "arms": ["ensemble_adapted", "ensemble", "ensemble_margin", "lower"],
        "sites": {"north": {"role": "target", "folder": "north"}},
        "split": {"val": 0.34, "test": 0.34},
        "compute": {"batch": 2},
        "contrastive": {"epochs": 1, "min_frame_gap": 2},
        "mim": {"epochs": 1, "rounds": 2},
        "finetune": {"epochs": 1},
        "adapt": {"epochs": 1, "rounds": 1, "bound": 100.0},
        "evaluate": {"bootstrap": 100, "overlays": 1},
    }
    for text in TABLES:
        if text != SELECTING:  # its arms are another study's
            _merge(study, tomllib.loads(text))
    _merge(study, changes)
    return study


def _merge(into: dict[str, Any], more: dict[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def a_study(**changes: Any) -> Study:
    return parse_study(tables(**changes), "STUDY.toml")


def write_site(folder: Path, suffix: str) -> None:
    """Two frames a patient: a bright disc in noise, as sweeps (.npy) or as pictures (.png)."""
    folder.mkdir()
    draw = np.random.default_rng(len(folder.name))
    y, x = np.mgrid[:SIDE, :SIDE]
    lines = ["id,image,mask,patient,video,frame"]
    for patient in range(PATIENTS):
        sweep = []
        for frame in range(FRAMES):
            disc = (y - 10 - patient) ** 2 + (x - 12 - frame) ** 2 < 40
            sweep.append(draw.rayleigh(np.where(disc, 0.5, 0.05)).astype(np.float32))
            name = f"{patient}_{frame}"
            Image.fromarray(disc.astype(np.uint8) * 255).save(folder / f"{name}_mask.png")
            image = f"{patient}.npy"
            if suffix == ".png":
                image = f"{name}.png"
                grey = (255 * np.minimum(sweep[-1], 1)).astype(np.uint8)
                Image.fromarray(grey).save(folder / image)
            lines.append(f"{name},{image},{name}_mask.png,p{patient},v{patient},{frame}")
        if suffix == ".npy":
            np.save(folder / f"{patient}.npy", np.stack(sweep))
    (folder / "index.csv").write_text("\n".join(lines) + "\n")


def test_every_example_is_short_and_named_in_a_study() -> None:
    assert list(PARTS) == [
        f"ourparts/{part}.py"
        for part in ("model", "loss", "reader", "rule", "confidence", "strategy")
    ]
    assert all(len(text.splitlines()) <= 60 for text in PARTS.values())
    study = a_study()
    named = (
        study.model.name,
        study.finetune_mim.loss,
        study.sites["harbour"].reader,
        study.federation.aggregation,
        study.infusion.confidence,
        next(arm for arm in a_study(**tomllib.loads(SELECTING)).selection_arms if ":" in arm),
    )
    for name, path in zip(named, PARTS, strict=True):
        module, _, attribute = str(name).partition(":")
        assert module.replace(".", "/") + ".py" == path
        assert re.search(rf"^(def|class) {attribute}\b", PARTS[path], re.MULTILINE)


def test_a_whole_study_of_own_parts(study_folder: Path) -> None:
    write_site(study_folder / "harbour", ".npy")
    write_site(study_folder / "north", ".png")
    run = run_study_here(
        a_study(), Engine.inprocess, study_folder, study_folder / "runs" / "one", resume=False
    )
    results = json.loads((run / "results.json").read_text())
    for arm in ("ensemble_adapted", "ensemble", "ensemble_margin", "lower"):
        for site in ("harbour", "north"):
            assert 0 <= results["arms"][arm]["sites"][site]["dice"]["mean"] <= 1
    state = run / "state" / "mim" / "mim"
    names = set(load_file(next(state.glob("weights-*"))))
    assert {"encoder.fine.0.weight", "decoder.0.weight", "head.bias"} <= names
    kept = set(load_file(next(state.glob("rule-*"))))
    assert "encoder.fine.0.weight" in kept
    assert not any("running" in name for name in kept)
    contrastive = set(load_file(next((run / "state/contrastive/contrastive").glob("weights-*"))))
    assert not any(name.startswith(("network.decoder", "network.head")) for name in contrastive)


def test_other_processes_find_the_parts(study_folder: Path) -> None:
    code = "from common.plugins import load_plugin as load; load('ourparts.reader:envelope', '')"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PAGE.parent)


def test_a_file_beside_the_study_never_replaces_an_installed_module(study_folder: Path) -> None:
    (study_folder / "statistics.py").write_text("raise SystemExit\n")
    load_plugin("ourparts.loss:tversky_bce", "finetune.loss")
    assert sys.path[-1] == os.environ[FOLDER_VARIABLE]
    assert load_plugin("statistics:fmean", "finetune.loss")([1, 2]) == 1.5


def test_the_loss_by_hand(study_folder: Path) -> None:
    loss = load_plugin("ourparts.loss:tversky_bce", "finetune.loss")
    targets = torch.tensor([1.0, 1.0, 0.0, 0.0]).view(1, 1, 2, 2)
    value = loss(torch.zeros(1, 1, 2, 2), targets)
    assert float(value) == pytest.approx(1 - (1 + 1) / (1 + 0.7 + 0.3 + 1) + math.log(2))


def test_the_reader_by_hand(study_folder: Path) -> None:
    np.save(study_folder / "a.npy", np.array([[[1.0, 0.1], [1e-3, 1e-6]]]))
    read = load_plugin("ourparts.reader:envelope", "reader")
    assert read(study_folder / "a.npy", 0) == pytest.approx(
        np.array([[1, 2 / 3], [0, 0]]), abs=1e-6
    )


def test_the_rule_by_hand(study_folder: Path, tmp_path: Path) -> None:
    federation = a_study().federation
    start, state = {"w": torch.tensor([1.0])}, dict[str, torch.Tensor]()
    for expected in (2.0, 3.9):  # step 1, then .9 x 1 + 1
        rule = make_rule(federation, start, state, tmp_path)
        rule.add({"w": start["w"] + 2}, 1)
        rule.add({"w": start["w"]}, 1)
        start, state = rule.result(), rule.state
        assert float(start["w"]) == pytest.approx(expected)


def test_the_confidence_by_hand(study_folder: Path) -> None:
    confidence = load_plugin("ourparts.confidence:neighbourly", "infusion.confidence")
    p = torch.full((1, 1, 5, 5), 0.5)
    p[0, 0, 0, 0] = 1.0
    assert float(confidence(p)[0, 0, 0, 0]) == pytest.approx(1 / 9)


def test_the_strategy_by_hand(study_folder: Path) -> None:
    """Six alike, of which one is unsure, and a lonely unsure one: scores 2 (five times), 1, 0."""
    check_strategy("ourparts.strategy:LonelyMargin")
    features = np.array([[1.0, 0.0]] * 6 + [[0.0, 1.0]])
    logits = np.array([[0.0, 50.0]] * 5 + [[0.0, 0.0]] * 2)
    strategy = strategy_of("ourparts.strategy:LonelyMargin")
    assert strategy.chosen(pool_of(features, logits), 7).tolist() == [6, 5, 0, 1, 2, 3, 4]


WRONG = """
import torch

class NoEncoder(torch.nn.Module):
    def __init__(self, *, image_size, classes, width):
        super().__init__()
        self.body = torch.nn.Conv2d(1, classes, 1)
    def feature(self, images):
        return images.mean(dim=(2, 3))
    def forward(self, images):
        return self.body(images)

class Small(NoEncoder):
    def forward(self, images):
        return self.body(images)[..., ::2]

def per_pixel(logits, targets):
    return (logits - targets) ** 2

def log(p):
    return p.log()

class Rule:
    def __init__(self, start, state):
        self.state = state
    def add(self, weights, weight):
        self.new = dict(weights)
    def result(self):
        return self.new
"""


def test_all_broken_promises_are_said_at_once(study_folder: Path) -> None:
    (study_folder / "ourparts" / "wrong.py").write_text(WRONG)
    study = a_study(
        model={"name": "ourparts.wrong:Small"},
        finetune={"loss": "ourparts.wrong:per_pixel"},
        infusion={"confidence": "ourparts.wrong:log"},
        federation={"aggregation": "ourparts.rule:Momentun"},
    )
    study = study.model_copy(
        update={"upper": study.upper.model_copy(update={"loss": "ourparts.lost:loss"})}
    )
    with pytest.raises(InputError) as caught:
        check_own_parts(study)
    said = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 5
    assert "forward gives (2, 1, 32, 16), not (2, 1, 32, 32)" in said
    assert "finetune_mim.loss: 'ourparts.wrong:per_pixel': the loss gives" in said
    assert "upper.loss: 'ourparts.lost:loss' cannot be imported" in said
    assert "is not finite everywhere on [0, 1]" in said
    assert "federation.aggregation: ourparts.rule has no 'Momentun'" in said
    with pytest.raises(InputError, match="submodule named encoder"):
        check_own_parts(a_study(model={"name": "ourparts.wrong:NoEncoder"}))


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ({"w": torch.ones(2), "x": torch.ones(1)}, "x is unknown"),
        ({}, "w is missing"),
        ({"w": torch.ones(3)}, r"w is torch.float32 \(3,\) in its result"),
        ({"w": torch.full((2,), math.nan)}, "w holds NaN"),
    ],
)
def test_a_rule_is_held_to_its_promise(
    study_folder: Path, reply: dict[str, torch.Tensor], words: str
) -> None:
    (study_folder / "ourparts" / "wrong.py").write_text(WRONG)
    rule = OwnRule("ourparts.wrong:Rule", {"w": torch.zeros(2)}, {})
    rule.add(reply, 1.0)
    with pytest.raises(StudyStopped, match=words):
        rule.result()

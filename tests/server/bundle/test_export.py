"""A run becomes a bundle, or is refused in words."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from common.bundle import files
from common.bundle.ensemble import load_ensemble
from common.errors import InputError
from server.bundle import export as bundles
from server.bundle.metadata import SCHEMA_FILE
from tests.bundles import SIDE, Carried


def test_the_folder_is_complete_and_verifies(carried: Carried) -> None:
    named = files.verify(carried.bundle)
    assert set(named) == {
        files.METADATA, files.INFERENCE, files.ENSEMBLE, files.FEDERATION, files.STATE,
        files.WEIGHTS, files.ONNX, files.CARD, files.LICENSE, files.REFERENCE, files.SCHEMA,
    }  # fmt: skip
    assert not list(carried.bundle.parent.glob(".*partial"))


def test_metadata_fits_the_schema_and_the_schema_bites(carried: Carried) -> None:
    meta = files.read_json(carried.bundle / files.METADATA)
    schema = json.loads(SCHEMA_FILE.read_text())
    jsonschema.validate(meta, schema)
    assert meta["network_data_format"]["outputs"]["pred"]["num_channels"] == 1
    assert meta["eval_metrics"]["mean_dice"] == pytest.approx(
        json.loads((carried.run / "results.json").read_text())["arms"]["ensemble"]["targets"][
            "dice"
        ]["mean"],
        abs=1e-4,
    )
    del meta["network_data_format"]["inputs"]["image"]["dtype"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(meta, schema)


def test_the_three_forms_of_the_weights_agree(carried: Carried) -> None:
    ensemble = load_ensemble(carried.bundle)
    plain = torch.load(carried.bundle / files.STATE, weights_only=True)
    state = ensemble.state_dict()
    assert plain.keys() == state.keys()
    assert all(torch.equal(plain[name], state[name]) for name in state)
    session = onnxruntime.InferenceSession(carried.bundle / files.ONNX)
    images = torch.rand(3, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    outputs = session.run(None, {"image": images.numpy()})
    with torch.inference_mode():
        said = ensemble.say(images)
    for ours, theirs in zip(said, outputs, strict=True):
        np.testing.assert_allclose(theirs, ours.numpy(), atol=2e-4)


def test_federation_and_card_say_where_it_comes_from(carried: Carried) -> None:
    origin = files.read_json(carried.bundle / files.FEDERATION)
    study = json.loads((carried.run / "study.json").read_text())
    assert list(origin["sites"]) == ["ada", "bo"]
    assert origin["sites"]["bo"]["counts"]["images"] == 24
    assert origin["rounds"] == {
        "contrastive/contrastive": 1, "contrastive/finetune_contrastive": 1,
        "mim/finetune_mim": 1, "mim/mim": 1,
    }  # fmt: skip
    assert all(len(value) == 64 for value in origin["digests"].values())
    text = (carried.bundle / files.CARD).read_text()
    assert text.startswith("---\nlicense: apache-2.0\nlibrary_name: monai\n")
    assert "| ada | source | 24 | 8 |" in text
    everything = text + json.dumps(origin)
    # Where the images lie is the sites' own business.
    assert study["sites"]["ada"]["folder"] not in everything
    assert str(carried.data) not in everything


def test_another_arm_says_that_it_wants_calibration(carried: Carried, tmp_path: Path) -> None:
    run = bundles.open_run(carried.run)
    config, ensemble = bundles.assemble(run, "ensemble_adapted", "bo")
    assert config.calibration == "advised"
    assert [m.name for m in config.members] == [
        "ensemble_adapted/adapt#0", "ensemble_adapted/adapt#1",
    ]  # fmt: skip
    licence = tmp_path / "terms.txt"
    licence.write_text("ask us")
    bundles.export(run, config, ensemble, tmp_path / "b", license_file=licence)
    assert (tmp_path / "b" / files.LICENSE).read_text() == "ask us"
    card = (tmp_path / "b" / files.CARD).read_text()
    assert "license: other" in card
    assert "--calibrate" in card


def test_refusals(carried: Carried, tmp_path: Path) -> None:
    run = bundles.open_run(carried.run)
    with pytest.raises(InputError, match="no arm 'ensembel'; did you mean 'ensemble'"):
        bundles.assemble(run, "ensembel")
    with pytest.raises(InputError, match="no site 'boo'; did you mean 'bo'"):
        bundles.assemble(run, "ensemble", "boo")
    config, ensemble = bundles.assemble(run)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("a")
    with pytest.raises(InputError, match="not an empty folder"):
        bundles.export(run, config, ensemble, tmp_path / "full")
    with pytest.raises(InputError, match="no such licence file"):
        bundles.export(run, config, ensemble, tmp_path / "b", license_file=tmp_path / "none")
    assert not (tmp_path / "b").exists()
    with pytest.raises(InputError, match=r"is .* a run folder"):
        bundles.open_run(tmp_path)


@pytest.fixture
def own_run(carried: Carried, tmp_path: Path) -> Path:
    return Path(shutil.copytree(carried.run, tmp_path / "run"))


def rewrite(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_smoke_run_is_refused(own_run: Path) -> None:
    rewrite(own_run / "study.json", untrained="a smoke run")
    with pytest.raises(InputError, match="is untrained and makes no bundle: a smoke run"):
        bundles.open_run(own_run)


def test_an_unfinished_training_is_refused(own_run: Path) -> None:
    rewrite(own_run / "state/mim/finetune_mim/training.json", finished=False)
    with pytest.raises(InputError, match="training mim/finetune_mim has not finished"):
        bundles.assemble(bundles.open_run(own_run))


def test_weights_that_are_not_those_assembled_are_refused(own_run: Path) -> None:
    path = own_run / "ensemble" / "config.json"
    listed = json.loads(path.read_text())
    listed["members"]["mim/finetune_mim"]["sha256"] = "0" * 64
    path.write_text(json.dumps(listed))
    with pytest.raises(InputError, match="mim/finetune_mim are not those that were assembled"):
        bundles.assemble(bundles.open_run(own_run))


@pytest.mark.slow
def test_monai_s_own_runner_runs_it(carried: Carried, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number, (height, width) in enumerate([(40, 70), (60, 33)]):
        rng = np.random.default_rng(number)
        Image.fromarray(rng.integers(0, 256, (height, width), dtype=np.uint8)).save(
            images / f"{number}.png"
        )
    monai = [sys.executable, "-m", "monai.bundle"]
    done = subprocess.run(
        [
            *monai, "run", "--config_file", str(carried.bundle / files.INFERENCE),
            "--dataset_dir", str(images), "--output_dir", str(tmp_path / "masks"),
        ],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    for number, size in enumerate([(70, 40), (33, 60)]):
        assert Image.open(tmp_path / "masks" / f"{number}_mask.png").size == size


def test_classifiers_are_asked_of_a_run_that_has_some(carried: Carried) -> None:
    run = bundles.open_run(carried.run)
    with pytest.raises(InputError, match="has no classifiers; --budget and --architecture"):
        bundles.assemble(run, budget=0.2)
    with pytest.raises(InputError, match="are of classifiers; lower segments"):
        bundles.assemble(run, "lower", architectures=["resnet50"])

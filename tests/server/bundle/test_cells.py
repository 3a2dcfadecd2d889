"""A run that only classifies becomes a bundle that classifies."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from common.bundle import files
from common.bundle.classifiers import Classifiers
from common.bundle.ensemble import load_ensemble, read_config
from common.errors import InputError
from server.bundle import export as bundles
from server.bundle.metadata import SCHEMA_FILE
from tests.bundles import SIDE, Carried


def test_the_default_is_the_first_architecture_at_the_largest_budget(sorting: Carried) -> None:
    files.verify(sorting.bundle)
    config = read_config(sorting.bundle)
    assert (config.task, config.arm, config.budget) == ("classification", "random", 0.6)
    assert [member.name for member in config.members] == ["random/60/shufflenet_v2_x0_5"]
    assert config.classes == ("benign", "malignant")
    assert config.own_parts == ()


def test_the_weights_are_those_of_that_training(sorting: Carried) -> None:
    state = load_file(sorting.bundle / files.WEIGHTS)
    trained = load_file(
        next((sorting.run / "state/random/60/shufflenet_v2_x0_5").rglob("*.safetensors"))
    )
    shared = {name: tensor for name, tensor in state.items() if "num_batches" not in name}
    assert len(shared) == len(trained)
    for name, tensor in trained.items():
        assert torch.equal(state[f"members.0.{name}"], tensor), name


def test_torch_and_onnx_say_the_same(sorting: Carried) -> None:
    network = load_ensemble(sorting.bundle)
    assert isinstance(network, Classifiers)
    session = onnxruntime.InferenceSession(sorting.bundle / files.ONNX)
    images = torch.rand(3, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    outputs = session.run(None, {"image": images.numpy()})
    with torch.inference_mode():
        said, forward = network.say(images), network(images)
    assert torch.equal(said.pred_BC, forward)
    np.testing.assert_allclose(said.pred_BC.sum(dim=1), 1, atol=1e-6)
    for ours, theirs in zip(said, outputs, strict=True):
        np.testing.assert_allclose(theirs, ours.numpy(), atol=2e-4)


def test_several_are_averaged(sorting: Carried) -> None:
    run = bundles.open_run(sorting.run)
    config, network = bundles.assemble(run, "random", budget=0.3, architectures=["all"])
    assert [member.architecture for member in config.members] == list(
        run.study.classify.architectures
    )
    images = torch.rand(2, 1, SIDE, SIDE)
    with torch.inference_mode():
        single = [member(images).softmax(dim=1) for member in network.members]
        torch.testing.assert_close(network(images), (single[0] + single[1]) / 2)


def test_metadata_and_card_say_that_it_classifies(sorting: Carried) -> None:
    meta = files.read_json(sorting.bundle / files.METADATA)
    jsonschema.validate(meta, json.loads(SCHEMA_FILE.read_text()))
    pred = meta["network_data_format"]["outputs"]["pred"]
    assert (pred["type"], pred["spatial_shape"], pred["num_channels"]) == ("probabilities", [], 2)
    cells = json.loads((sorting.run / "results.json").read_text())["selection"]["cells"]
    own = next(
        cell
        for cell in cells
        if (cell["arm"], cell["budget"], cell["architecture"])
        == ("random", 0.6, "shufflenet_v2_x0_5")
    )
    accuracy = own["pooled"]["accuracy"]["mean"]
    assert meta["eval_metrics"]["accuracy"] == pytest.approx(accuracy, abs=1e-4)
    text = (sorting.bundle / files.CARD).read_text()
    assert "pipeline_tag: image-classification" in text
    assert "Tells benign, malignant apart in B-mode ultrasound: `shufflenet_v2_x0_5`" in text
    assert "on the 60 % of the targets' images that arm random had annotated" in text
    assert f"| all | accuracy | {accuracy:.3f} |" in text
    origin = files.read_json(sorting.bundle / files.FEDERATION)
    assert origin["rounds"] == {
        "random/60/shufflenet_v2_x0_5/classify": 1,
        "shufflenet_v2_x0_5/source_classifier": 1,
    }  # fmt: skip
    assert list(origin["ledgers"]["sites"]) == ["ada", "bo"]


def test_the_source_s_own_classifier_has_its_own_words(sorting: Carried, tmp_path: Path) -> None:
    run = bundles.open_run(sorting.run)
    config, network = bundles.assemble(run, "source_only", architectures=["mobilenetv3_small_050"])
    assert (config.budget, config.members[0].stage) == (0.0, "source_classifier")
    bundles.export(run, config, network, tmp_path / "b")
    text = (tmp_path / "b" / files.CARD).read_text()
    assert "trained by the sources' labels alone" in text
    assert "carries no reference statistics" in text


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"arm": "randon"}, "no arm 'randon'; did you mean 'random'"),
        ({"budget": 0.5}, "random has no classifier at budget 0.5; there are 0.3, 0.6"),
        ({"architectures": ["shufflenet"]}, "no classifier is a 'shufflenet'; did you mean"),
        ({"architectures": ["shufflenet_v2_x0_5"] * 2}, "names one twice"),
        ({"site": "bo"}, "classifiers are the same at every site"),
    ],
)
def test_refusals(sorting: Carried, asked: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        bundles.assemble(bundles.open_run(sorting.run), **asked)  # type: ignore[arg-type]


@pytest.mark.slow
def test_monai_s_own_runner_writes_the_probabilities(sorting: Carried, tmp_path: Path) -> None:
    images = sorting.data / "linear_pocket" / "images"
    done = subprocess.run(
        [
            sys.executable, "-m", "monai.bundle", "run",
            "--config_file", str(sorting.bundle / files.INFERENCE),
            "--dataset_dir", str(images), "--output_dir", str(tmp_path / "o"),
        ],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    with (tmp_path / "o" / "predictions.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert len(rows) == 36
    for row in rows:
        assert Path(row[0]).parent == images
        assert sum(map(float, row[1:])) == pytest.approx(1, abs=1e-5)

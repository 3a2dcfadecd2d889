"""One network of members and head: it is the study's own fusion, and it loads what was exported."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from clients.infusion import fuse
from common.bundle import files
from common.bundle.ensemble import load_segmentation, pixel_confidence, read_config
from common.errors import InputError
from tests.bundles import SIDE, Carried


def images(count: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 1, SIDE, SIDE, generator=generator)


def test_fused_as_the_study_fuses(carried: Carried) -> None:
    ensemble = load_segmentation(carried.bundle)
    batch = images()
    with torch.inference_mode():
        members = [member(batch).sigmoid() for member in ensemble.members]
        said = ensemble.say(batch)
        torch.testing.assert_close(said.pred_BCSS, fuse(members, ensemble.infusion))
        torch.testing.assert_close(ensemble(batch), said.pred_BCSS)
    assert said.branches_BMCSS.shape == (3, 2, 1, SIDE, SIDE)
    assert said.features_BD.shape[0] == 3
    torch.testing.assert_close(said.branches_BMCSS[:, 1], members[1])
    assert not torch.allclose(members[0], members[1], atol=1e-3)


def test_an_image_does_not_depend_on_its_company(carried: Carried) -> None:
    ensemble = load_segmentation(carried.bundle)
    batch = images()
    with torch.inference_mode():
        torch.testing.assert_close(ensemble(batch)[1:2], ensemble(batch[1:2]), atol=1e-5, rtol=0)


def test_the_members_are_the_runs_own(carried: Carried) -> None:
    ensemble = load_segmentation(carried.bundle)
    config = read_config(carried.bundle)
    assert [member.name for member in config.members] == [
        "mim/finetune_mim", "contrastive/finetune_contrastive",
    ]  # fmt: skip
    for network, entry in zip(ensemble.members, config.members, strict=True):
        stored = load_file(carried.run / "ensemble" / f"{entry.name.replace('/', '.')}.safetensors")
        state = network.state_dict()
        assert stored
        for name, tensor in stored.items():
            assert torch.equal(tensor, state[name]), name


def test_confidence_is_one_where_sure_and_zero_at_half() -> None:
    p = torch.tensor([0.0, 0.5, 1.0]).reshape(1, 1, 1, 3)
    torch.testing.assert_close(pixel_confidence(p).flatten(), torch.tensor([1.0, 0.0, 1.0]))


def test_refusals(own_bundle: Path) -> None:
    path = own_bundle / files.ENSEMBLE
    raw = json.loads(path.read_text())
    path.write_text(json.dumps({**raw, "version": 9}))
    with pytest.raises(InputError, match="bundle version 9 is newer"):
        read_config(own_bundle)
    path.write_text(json.dumps({**raw, "surprise": 1}))
    with pytest.raises(InputError, match="surprise"):
        read_config(own_bundle)
    path.write_text(json.dumps({**raw, "members": raw["members"][:1]}))
    with pytest.raises(InputError, match="does not fit"):
        load_segmentation(own_bundle)
    (own_bundle / files.WEIGHTS).write_bytes(b"no weights")
    with pytest.raises(InputError, match="is not readable"):
        load_segmentation(own_bundle)

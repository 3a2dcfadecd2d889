"""MONAI's own checks of bundles: of small ones in this process, and of the demo's from outside."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from monai.bundle.scripts import verify_metadata, verify_net_in_out
from PIL import Image

from common.bundle import files
from tests.bundles import Carried

SONOFED = [sys.executable, "-m", "scripts.cli"]
MONAI = [sys.executable, "-m", "monai.bundle"]


@pytest.mark.parametrize("name", ["carried", "sorting"])
def test_monai_verifies_a_bundle(name: str, request: pytest.FixtureRequest) -> None:
    made: Carried = request.getfixturevalue(name)
    bundle = made.bundle
    meta = str(bundle / files.METADATA)
    verify_metadata(meta_file=meta, filepath=str(bundle / files.SCHEMA))
    verify_net_in_out(
        net_id="network", meta_file=meta, config_file=str(bundle / files.INFERENCE),
        bundle_root=str(bundle),
    )  # fmt: skip


def offline(words: list[str]) -> subprocess.CompletedProcess[str]:
    """A command without a network, where this machine lets a process give it up."""
    alone = ["unshare", "-rn"]
    able = (
        shutil.which("unshare")
        and not subprocess.run([*alone, "true"], capture_output=True, check=False).returncode
    )
    done = subprocess.run(
        [*(alone if able else []), *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (words, done.stderr[-3000:])
    return done


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_demo_s_bundle_is_verified_and_runs_offline(tmp_path: Path) -> None:
    """The commands of docs/bundle.md on what `make demo` trains."""
    run, bundle = tmp_path / "demo", tmp_path / "bundle"
    offline([*SONOFED, "simulate", "configs/demo.toml", "--out", str(run)])
    offline([*SONOFED, "export", str(run), "--out", str(bundle)])
    meta = ["--meta_file", str(bundle / files.METADATA)]
    config = ["--config_file", str(bundle / files.INFERENCE)]
    done = offline([*MONAI, "verify_metadata", *meta, "--filepath", str(bundle / files.SCHEMA)])
    assert "skipped downloading" in done.stdout + done.stderr
    offline([*MONAI, "verify_net_in_out", "network", *meta, *config])
    images = next(tmp_path.glob("phantom-*/linear_pocket/images"))
    masks, ours = tmp_path / "masks", tmp_path / "ours"
    offline([*MONAI, "run", *config, "--dataset_dir", str(images), "--output_dir", str(masks)])
    offline([*SONOFED, "predict", str(bundle), str(images), "--out", str(ours),
             "--precision", "fp32", "--draw-flagged"])  # fmt: skip
    moved = []
    for path in sorted(images.iterdir()):
        theirs, mine = (
            np.asarray(Image.open(folder / f"{path.stem}_mask.png")) > 0 for folder in (masks, ours)
        )
        assert theirs.shape == np.asarray(Image.open(path)).shape
        moved.append(float((theirs != mine).mean()))
    assert len(moved) == 144
    assert np.mean(moved) <= 1e-3

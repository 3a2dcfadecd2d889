"""The share of frames that a bundle flags, and how good the masks are that it writes."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.bundle import files
from common.errors import InputError
from scripts.bench.flagged import HEAD, chosen, share
from tests.bundles import Carried


def test_a_device_of_the_study_and_pictures_of_noise(carried: Carried, tmp_path: Path) -> None:
    folder = carried.data / "linear_pocket"
    split = carried.run / "sites" / "bo" / "split.json"
    rows = chosen(folder, [], split)
    assert [row.id for row in rows] == sorted(json.loads(split.read_text())["test"])
    known = share(carried.bundle, rows)
    assert known.flagged["withheld"] < 0.5
    assert 0 < known.dice_told <= 1
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    lines = ["id,image"]
    for number in range(4):
        noise = rng.integers(225, 256, (48, 48), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "images" / f"{number}.png")
        lines.append(f"{number},images/{number}.png")
    (tmp_path / "index.csv").write_text("\n".join(lines) + "\n")
    strange = share(carried.bundle, chosen(tmp_path, []))
    assert strange.flagged["withheld"] == strange.flagged["grey"] == 1.0
    assert math.isnan(strange.dice_told)
    row = strange.line("noise")
    assert row.startswith("| noise | 4 | 100.0 % | 100.0 % |")
    assert row.endswith("| - | - |")
    assert row.count("|") == HEAD[0].count("|")


def test_what_is_picked(carried: Carried) -> None:
    folder = carried.data / "linear_pocket"
    assert len(chosen(folder, [], limit=5)) == 5
    one = chosen(folder, [])[0].id
    assert [row.id for row in chosen(folder, [f"id={one}"])] == [one]
    with pytest.raises(InputError, match="leave none of the 24 rows"):
        chosen(folder, ["id=nobody"])


def test_without_reference_statistics_there_is_nothing_to_flag_by(
    carried: Carried, own_bundle: Path
) -> None:
    (own_bundle / files.REFERENCE).unlink()
    files.write_digests(own_bundle)
    with pytest.raises(InputError, match="carries no reference statistics"):
        share(own_bundle, chosen(carried.data / "linear_pocket", []))

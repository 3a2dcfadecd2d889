"""`sonofed gate policy`: a study's manifest, and what a policy would refuse of it."""

from pathlib import Path

import pytest

import common
from tests.scripts.conftest import Command, Said, write_study

TEMPLATE = Path(common.__file__).parents[1] / "configs" / "policy.toml"


def make(
    sonofed: Command,
    folder: Path,
    *,
    upper: bool = True,
    change: tuple[str, str] = ("MB", "MB"),
) -> tuple[Path, Path]:
    """The mini study, its manifest, and the template made into a policy for it."""
    study = write_study(folder / "mini.toml")
    said = sonofed("gate", "policy", "manifest", study, "--out", folder / "mini.manifest.json")
    assert said.code == 0, said.err
    lines = said.out[said.out.index("[studies.mini]") :]
    text = TEMPLATE.read_text(encoding="utf-8")
    text = text.replace('site = "hospital-1"', 'site = "bo"')
    text = text.replace("\n[studies]\n", "\n" + lines + "\n", 1)
    if upper:
        text = text.replace("# upper = {", "upper = {")
    assert change[0] in text
    text = text.replace(*change)
    policy = folder / "policy.toml"
    policy.write_text(text, encoding="utf-8")
    return policy, study


def check(sonofed: Command, policy: Path, study: Path, *more: str) -> Said:
    return sonofed("gate", "policy", "check", policy, "--study", study, *more)


def test_the_template_made_ones_own_refuses_nothing(sonofed: Command, tmp_path: Path) -> None:
    said = check(sonofed, *make(sonofed, tmp_path))
    assert (said.code, said.err) == (0, "")
    assert "the policy refuses none of it" in said.out
    assert "train.mim mim/mim: " in said.out


def test_a_stage_that_is_not_named_is_refused_in_plain_words(
    sonofed: Command, tmp_path: Path
) -> None:
    said = check(sonofed, *make(sonofed, tmp_path, upper=False))
    assert said.code == 1
    assert said.out.count("stage upper: the site takes no part in it") == 1


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"*.epochs" = { kind = "count", low = 1, high = 2000 }',
         '"*.epochs" = { kind = "count", low = 5 }', "study, 'mim.epochs': 1 is below 5"),
        ('"mim.*" = {}\n', "", "study, 'mim.batch': no rule allows this key"),
        ("statistics = true", "statistics = false",
         "statistics of normalisation do not leave this site"),
        ("message_mb = 500 ", "message_mb = 1 ", "MB are more than 1 MB a message"),
        ('"loss*" = ', '"lost*" = ', "metric loss: no rule of the policy allows it"),
        ('site = "bo"', 'site = "cy"', "site cy: is none of the study's (ada, bo)"),
        ("[studies.mini]", "[studies.maxi]", "study mini: stands not in [studies]"),
    ],
)  # fmt: skip
def test_what_would_be_refused_is_said_beforehand(
    sonofed: Command, tmp_path: Path, old: str, new: str, words: str
) -> None:
    said = check(sonofed, *make(sonofed, tmp_path, change=(old, new)))
    assert said.code == 1
    assert words in said.out


def test_another_models_manifest_is_named_message_by_message(
    sonofed: Command, tmp_path: Path
) -> None:
    policy, study = make(sonofed, tmp_path)
    said = check(sonofed, policy, study, "--set", "wire.dtype=float16")
    assert said.code == 1
    assert "the policy holds the digest of another manifest" in said.out
    assert "train.mim mim/mim: carries something else" in said.out
    assert "query.enrol: carries something else" not in said.out


def test_an_unknown_key_is_said_with_the_nearest(sonofed: Command, tmp_path: Path) -> None:
    policy, study = make(sonofed, tmp_path, change=("day_mb", "day_bm"))
    said = check(sonofed, policy, study)
    assert said.code == 2
    assert "limits.day_bm: unknown key; did you mean 'day_mb'?" in said.err


def test_a_manifest_is_one_file_each_time(sonofed: Command, tmp_path: Path) -> None:
    make(sonofed, tmp_path)
    first = (tmp_path / "mini.manifest.json").read_bytes()
    make(sonofed, tmp_path)
    assert (tmp_path / "mini.manifest.json").read_bytes() == first

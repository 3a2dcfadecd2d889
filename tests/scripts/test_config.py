"""`sonofed config show`."""

from pathlib import Path

from tests.scripts.conftest import Command, write_study


def test_every_key(sonofed: Command) -> None:
    said = sonofed("config", "show")
    assert said.code == 0
    assert "mim.ratio  0.6  > 0, < 1" in said.out
    assert "P1 Table 6" in said.out
    assert "finetune.epochs  20" in said.out
    assert "finetune_mim" not in said.out
    assert len(sonofed("config", "show", "--keys").out.splitlines()) > 120


def test_markdown(sonofed: Command) -> None:
    said = sonofed("config", "show", "--md", "--only", "infusion")
    head, rule, *rows = said.out.splitlines()
    assert head == "| key | default | range | meaning | paper |"
    assert rule == "|---|---|---|---|---|"
    assert len(rows) == 4
    assert r"entropy \| margin \| mean" in rows[0]


def test_a_studys_values(sonofed: Command, tmp_path: Path) -> None:
    study = write_study(tmp_path / "mini.toml")
    said = sonofed("config", "show", study, "--set", "lower.epochs=3", "--md")
    rows = {row.split(" | ")[1]: row for row in said.out.splitlines()[2:]}
    assert rows["lower.epochs"].startswith("| * | lower.epochs | 3 | 20 |")
    assert rows["upper.epochs"].startswith("| * | upper.epochs | 1 | 20 |")
    assert rows["mim.ratio"].startswith("|  | mim.ratio | 0.6 | 0.6 |")
    assert rows["sites.ada.role"].startswith('| * | sites.ada.role | "source" | required |')


def test_wrong_input(sonofed: Command, tmp_path: Path) -> None:
    assert sonofed("config", "show", "--only", "nothing").code == 2
    assert sonofed("config", "show", "--set", "a=1").code == 2
    assert sonofed("config", "show", tmp_path / "none.toml").code == 2

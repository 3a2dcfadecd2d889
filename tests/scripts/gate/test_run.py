"""`sonofed gate run` as a person types it: quick, without torch, plain words for wrong input."""

import subprocess
import sys
from pathlib import Path

import pytest

import common
from clients.gate.approvals import approve
from clients.site_file import load_site
from scripts.audit.door import small_bundle
from tests.clients.gate.center import Center, Keys
from tests.clients.gate.process import write_site

ROOT = Path(common.__file__).parents[1]
SONOFED = Path(sys.executable).with_name("sonofed")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys.make(tmp_path_factory.mktemp("keys"))


def gate_run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(SONOFED), "gate", "run", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_help_says_what_it_is() -> None:
    done = gate_run("--help")
    assert done.returncode == 0
    for words in ("only door", "--site", "--listen-fd", "flower-supernode --insecure"):
        assert words in done.stdout


def test_a_wrong_file_is_told_in_plain_words(tmp_path: Path, keys: Keys) -> None:
    nothing = gate_run("--site", tmp_path / "site.toml")
    assert nothing.returncode == 2
    assert nothing.stderr.startswith("error: ")
    assert "no such file" in nothing.stderr
    with Center(keys) as center:
        site = write_site(tmp_path / "west", center)
        cases: dict[str, list[str]] = {
            "--listen-fd 99: is no socket": ["--listen-fd", "99"],
            "is the policy of west, not of east": ['name = "west"', 'name = "east"'],
            "is no certificate of an authority": [str(keys.ca), str(tmp_path / "nothing")],
            "no such policy": ["policy.toml", "polisy.toml"],
        }
        text = site.read_text() + '\n[gate]\npolicy = "policy.toml"\n'
        for words, given in cases.items():
            site.write_text(text)
            arguments = given if given[0] == "--listen-fd" else []
            if not arguments:
                site.write_text(text.replace(given[0], given[1]))
            done = gate_run("--site", site, *arguments)
            assert done.returncode == 2, done.stderr
            assert words in done.stderr
            assert "Traceback" not in done.stderr


def test_damaged_files_in_the_gates_folder_are_named(tmp_path: Path, keys: Keys) -> None:
    """One sentence each, with what to do; what is soundly there is said in the log meanwhile."""
    with Center(keys) as center:
        site = write_site(tmp_path / "west", center)
        folder = load_site(site).gate.folder
        approve(folder, small_bundle())
        head = folder / "approvals.jsonl.head"
        head.unlink()
        done = gate_run("--site", site)
        assert done.returncode == 2
        assert f"error: {head} is gone, so nobody can say whether lines were cut" in done.stderr
        approve(folder, small_bundle())
        standing = folder / "spool" / "exchanges" / ("a" * 64) / "standing.json"
        standing.parent.mkdir(parents=True)
        for content in (b"", b'{"number": 1', b'{"number": 1, "new": 2}', b"\xff"):
            standing.write_bytes(content)
            assert_named(gate_run("--site", site), standing, "move its folder out of the spool")
        standing.unlink()
        node = folder / "spool" / "node.json"
        for content in (b"", b"[]", b'{"node_id": null}', b'{"node": 1}'):
            node.write_bytes(content)
            done = gate_run("--site", site)
            assert_named(done, node, "remove it and start again")
        assert "WARNING approvals: " in done.stderr
        assert "the head file had been taken away" in done.stderr


def assert_named(done: "subprocess.CompletedProcess[str]", path: Path, words: str) -> None:
    """One line of error that names a file."""
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if not line[:4].isdigit()]
    assert len(errors) == 1, done.stderr
    assert errors[0].startswith(f"error: {path}: is damaged")
    assert words in errors[0]


def test_the_command_never_loads_what_trains() -> None:
    """Neither by what `sonofed gate run` imports nor by any module of the gate."""
    modules = [f"clients.gate.{path.stem}" for path in (ROOT / "clients/gate").glob("[a-z]*.py")]
    code = (
        "import sys; sys.argv = ['sonofed', 'gate', 'run', '--help']\n"
        f"import {', '.join(modules)}\n"
        "try:\n    import scripts.cli\nexcept SystemExit:\n    pass\n"
        "wrong = {'torch', 'torchvision', 'clients.app', 'PIL', 'ray'} & set(sys.modules)\n"
        "sys.exit(str(wrong) if wrong else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr

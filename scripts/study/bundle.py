"""The bundle (FAB) of the installed project: the code that a study runs at every site."""

import hashlib
import shutil
import tempfile
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import common
from common.errors import InputError


@dataclass(frozen=True)
class Bundle:
    """A bundle.

    Attributes:
        data: Its bytes.
    """

    data: bytes

    @property
    def sha256(self) -> str:
        """What names it."""
        return hashlib.sha256(self.data).hexdigest()


def stage(into: Path) -> None:
    """Copy what the bundle may hold (pyproject's `fab-include`) into an empty folder.

    Flower walks the whole project folder, .venv and runs included, before it chooses.

    Raises:
        InputError: If this is no source tree.
    """
    root = Path(common.__file__).resolve().parents[1]
    project = root / "pyproject.toml"
    if not project.exists():
        raise InputError(f"{root}: a bundle needs the source tree with its pyproject.toml")
    included = tomllib.loads(project.read_text(encoding="utf-8"))["tool"]["flwr"]["app"]
    into.mkdir()
    shutil.copy(project, into)
    for pattern in included["fab-include"]:
        for path in root.glob(pattern):
            target = into / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)


def build(change: Callable[[Path], None] | None = None) -> Bundle:
    """Build the bundle of this installation.

    Args:
        change: Changes the staged folder first; for tests that send other code.
    """
    from flwr.cli.build import build_fab_from_disk

    with tempfile.TemporaryDirectory(prefix="fed-") as name:
        app = Path(name) / "sonofed"
        stage(app)
        if change is not None:
            change(app)
        return Bundle(build_fab_from_disk(app))

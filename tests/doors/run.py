"""`sonofed` with a watch on the files that the server's process opens while the server is at work.

Before that, the same command makes the phantom and looks at the sites' data; the sites themselves
work in processes of their own (jobs = 2), which the watch does not reach.
"""

import common.environment  # noqa: I001

import os
import sys
import sysconfig
import threading
from pathlib import Path
from typing import Any

import common
from scripts.cli import main
from scripts.engines import inprocess

EVENTS = ("open", "os.listdir", "os.scandir")
CODE = Path(common.__file__).resolve().parents[1]
PACKAGES = [CODE / name for name in ("common", "clients", "server", "scripts")]
PACKAGES.append(CODE / "sonofed.egg-info")  # what setuptools notes about them; libraries ask for it
LIBRARIES = {
    Path(sysconfig.get_path(name)).resolve()
    for name in ("stdlib", "platstdlib", "purelib", "platlib")
}


def allowed(path: Path, run: Path) -> bool:
    """Whether the server's process may open a file, or look into a folder, of that name.

    Libraries and code may be opened, for what is imported late. In the run folder everything but
    the sites' own folders may; of `sites/` the engine, which is no part of the server, reads the
    list of sites, and the command's display follows the sites' training losses.

    Args:
        path: The file or folder. An import looks into every folder (or archive) on its path, for
            names only.
        run: The run folder.
    """
    if str(path) in {os.path.realpath(entry) for entry in sys.path}:
        return True
    sites = run / "sites"
    if path == sites or sites in path.parents:
        display = threading.current_thread().name.endswith("(_follow)")
        return path == sites / "sites.json" or (display and path.name == "epochs.jsonl")
    return any(path == root or root in path.parents for root in (run, *LIBRARIES, *PACKAGES))


class Watch:
    """An audit hook cannot be taken off, so it has a switch: the run folder."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.run: Path | None = None
        self.seen = 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        run = self.run
        # A file descriptor was opened before, under this watch.
        if run is None or event not in EVENTS or isinstance(arguments[0], int):
            return
        path = Path(os.path.realpath(os.fsdecode(arguments[0] or ".")))
        self.seen += 1
        if not allowed(path, run):
            self.run = None
            with self.log.open("a", encoding="utf-8") as log:
                log.write(f"{event} {path}\n")
            self.run = run
            raise PermissionError(f"{event}: {path} is not the server's")


def watched_main() -> None:
    """The command, with the engine's run under the watch."""
    watch = Watch(Path(os.environ["DOORS_LOG"]))
    sys.addaudithook(watch)
    engine = inprocess.run

    def watched(folder: Path, sites_file: Path, jobs: int) -> None:
        watch.run = folder.resolve()
        try:
            engine(folder, sites_file, jobs)
        finally:
            watch.run = None
        assert watch.seen > 100, "the watch saw nothing"

    inprocess.run = watched
    main()


if __name__ == "__main__":
    watched_main()

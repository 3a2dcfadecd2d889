"""The part of `sonofed audit prove` that is watched: a consortium on this machine runs a study.

A process of its own, so that strace sees all of it from the first call on: nginx, SuperLink,
ServerApp, gates, SuperNodes, ClientApps.
"""

import common.environment  # noqa: F401, I001 - before Flower

import argparse
import sys
from pathlib import Path

from common.errors import InputError
from scripts.audit import staged
from scripts.consortium.rehearsal import Rehearsal
from scripts.live import say
from server.context import StudyStopped

MINIMUM = 5
"""The sites' smallest cohort: the template's own."""


def rehearsal(folder: Path, *, quick: bool, open_network: bool) -> Rehearsal:
    """The consortium of an audit; equal arguments give the same one."""
    return Rehearsal(
        folder / "consortium",
        staged.study(quick=quick),
        data_root=folder / "data",
        minimum=MINIMUM,
        open_network=open_network,
    )


def main() -> None:
    """Bring it up, run the study, take it down."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("upstream")
    parser.add_argument("run", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--open-network", action="store_true")
    given = parser.parse_args()
    staging = rehearsal(given.folder, quick=given.quick, open_network=given.open_network)
    staging.upstream = given.upstream
    try:
        with staging:
            say("up")
            staging.run(given.run)
    except StudyStopped as error:
        say(f"stopped: {error}")
        sys.exit(1)
    except InputError as error:
        for problem in error.problems:
            say(f"error: {problem}")
        sys.exit(2)


if __name__ == "__main__":
    main()

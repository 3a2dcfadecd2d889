"""Kills a study again and again, and goes on with it; run by test_resume.py in its own process.

`python -m tests.scripts.killed FOLDER SEED STUDY`: FOLDER/plain is a run that nobody disturbs, and
FOLDER/killed/run the same study, killed by SIGKILL at seeded moments: before its n-th touch of a
file or folder (an opening, a move, a removal), which is where a kill can do harm. STUDY is
"segmenting" or "choosing". Prints one JSON line. A study's process is forked from one that has
imported everything.
"""

import json
import os
import random
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from common.config.study import Study
from scripts.simulate import Engine, run_study_here
from tests.tiny import choosing, tiny

TOUCHES = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir")
MOST_KILLS = 8


class Killer:
    """An audit hook that counts touches below a folder, and kills before one of them."""

    def __init__(self, folder: Path, kill_before: int | None) -> None:
        self.folder, self.kill_before = str(folder), kill_before
        self.count = 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in TOUCHES or not isinstance(arguments[0], (str, os.PathLike)):
            return
        if not os.path.abspath(os.fspath(arguments[0])).startswith(self.folder):
            return
        self.count += 1
        if self.count == self.kill_before:
            os.kill(os.getpid(), signal.SIGKILL)


def attempt(study: Study, run: Path, kill_before: int | None) -> int | None:
    """Run or go on with the study in a process of its own.

    Returns:
        Its number of touches, or None if it was killed.
    """
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        killer = Killer(run.parent, kill_before)
        sys.addaudithook(killer)
        try:
            with open(os.devnull, "w", encoding="utf-8") as nowhere:
                os.dup2(nowhere.fileno(), 1)
            run_study_here(study, Engine.inprocess, run.parent, run, True)
            os.write(writing, str(killer.count).encode())
        except BaseException:
            traceback.print_exc()
        os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as pipe:
        said = pipe.read()
    _, status = os.waitpid(process, 0)
    if os.WIFSIGNALED(status):
        return None
    if not said:
        raise SystemExit("the study failed")
    return int(said)


def study_of(kind: str) -> Study:
    """The study that is killed."""
    if kind == "choosing":
        return choosing(arms=["dual", "coreset"])
    return tiny(
        mim={"rounds": 2, "epochs": 1},
        finetune={"rounds": 2, "epochs": 1},
        federation={"norm": "local", "aggregation": "fedadam"},
    )


def main(folder: Path, seed: int, kind: str) -> None:
    study = study_of(kind)
    draw = random.Random(seed)
    run = folder / "killed" / "run"
    run.parent.mkdir()
    (folder / "plain").mkdir()
    total = attempt(study, folder / "plain" / "run", None)
    assert total is not None
    kills: list[int] = []
    while len(kills) < MOST_KILLS:
        before = draw.randint(1, total // 3)
        if attempt(study, run, before) is not None:
            break
        kills.append(before)
    else:
        attempt(study, run, None)
    print(json.dumps({"touches": total, "kills": kills}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])

"""What a study survives: each part killed at work, with real processes; the bits are the same.

Every victim gets a study of its own (another seed), so that no site can answer from what it kept.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clients import supervisor
from common import ledger_check
from common.config.load import load_study
from common.config.study import Study
from common.keeper import descendants, read_status
from common.signing import public_path, read_public_key
from scripts.consortium.receipts import receipts_of
from scripts.consortium.rehearsal import Rehearsal, differences
from scripts.simulate import Engine, run_study_here
from scripts.study.submit import check, submit, wait
from server.context import StudyStopped
from server.receipts import KEY_FILE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
STUDY = Path(__file__).resolve().parents[3] / "configs" / "poc.toml"
VICTIM = "hillcrest"
ATTEMPTS = 3
COMPUTED_S = 4.0
LONG = {victim: ["mim.epochs=200"] for victim in ("training", "terminated")}
"""So that there is a middle of the training to be killed in."""


def study_of(seed: int, *more: str) -> Study:
    return load_study(STUDY, [f"seed={seed}", "arms=['mim']", *more])


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    with Rehearsal(tmp_path_factory.mktemp("survival"), study_of(0)) as made:
        yield made


def named(pid: int, words: str) -> bool:
    """Whether a process is that program: its file or its script, not just an argument."""
    try:
        told = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:3]
    except OSError:
        return False
    return any(part.endswith(words.encode()) for part in told)


def site_keeper(made: Rehearsal) -> dict[str, dict[str, int]]:
    told = read_status(made.sites[VICTIM].folder / supervisor.STATUS)
    return told["services"] if told else {}


def center(made: Rehearsal, service: str) -> list[int]:
    told = read_status(made.place.status)
    pid = told["services"][service]["pid"] if told else None
    return [pid] if pid else []


def below_supernode(made: Rehearsal, words: str) -> list[int]:
    pid = site_keeper(made).get("supernode", {}).get("pid")
    return [p for p in descendants(pid) if named(p, words)] if pid else []


def client_apps(made: Rehearsal) -> list[int]:
    """Forks of the executor: all of its name but the first."""
    return sorted(below_supernode(made, "executor.py"))[1:]


def at_work(made: Rehearsal) -> list[int]:
    """A ClientApp that has computed for a while: it has its instruction, and trains."""
    return [pid for pid in client_apps(made) if processor_s(pid) > COMPUTED_S]


def processor_s(pid: int) -> float:
    """Seconds of a processor that a process has had; 0 where there is none."""
    try:
        told = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(told[11]) + int(told[12])) / os.sysconf("SC_CLK_TCK")


def everything(made: Rehearsal) -> list[int]:
    """Every process of the consortium, the keepers first: they would start the others again."""
    keepers = [int(told["pid"]) for told in made.status().values() if told is not None]
    return keepers + [pid for keeper in keepers for pid in descendants(keeper)]


def gate(made: Rehearsal) -> list[int]:
    pid = site_keeper(made).get("gate", {}).get("pid")
    return [pid] if pid else []


def trainings(made: Rehearsal) -> int:
    """Instructions to train that the victim's gate has let in so far."""
    return sum(
        line.event["kind"] == "instruction" and line.event["message"] == "train.mim"
        for line in ledger_check.read(made.sites[VICTIM].ledger)
    )


def server_app(made: Rehearsal) -> list[int]:
    return [
        pid for parent in center(made, "superlink") for pid in descendants(parent)
        if named(pid, "flwr-serverapp")
    ]  # fmt: skip


VICTIMS: dict[str, Callable[[Rehearsal], list[int]]] = {
    "clientapp": client_apps,
    "training": at_work,
    "supernode": lambda made: below_supernode(made, "flower-supernode"),
    "namespace": lambda made: [site_keeper(made)["supernode"]["pid"]],
    "gate": gate,
    "nginx": lambda made: center(made, "front"),
    "superlink": lambda made: center(made, "superlink"),
    "serverapp": server_app,
    "terminated": at_work,
}
SIGNALS = {"terminated": signal.SIGTERM}
"""Instead of SIGKILL: Flower's own process would end its task, and its SuperNode wait for ever."""


def wait_for(condition: Callable[[], object], seconds: float = 600.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.02)


def carry_on(made: Rehearsal, study: Study, folder: Path) -> int:
    """Wait for a run; where it stopped, have it go on. How often that was needed."""
    for attempt in range(ATTEMPTS + 1):
        number = int((folder / "flower-run").read_text())
        try:
            check(folder, wait(made.place, number))
        except StudyStopped as error:
            print(f"stopped: {error}")
            if attempt == ATTEMPTS:
                raise
            made.wait_online()
            submit(made.place, study, folder, made.bundle, resume=True)
        else:
            return attempt
    raise AssertionError


@pytest.mark.parametrize("victim", VICTIMS)
def test_a_study_survives_a_kill(rehearsal: Rehearsal, victim: str, tmp_path: Path) -> None:
    study = study_of(1 + list(VICTIMS).index(victim), *LONG.get(victim, []))
    alone = run_study_here(study, Engine.inprocess, Path(), tmp_path / "alone", resume=False)
    folder = rehearsal.place.runs / victim
    rehearsal.wait_online()
    began = time.monotonic()
    before = trainings(rehearsal)
    submit(rehearsal.place, study, folder, rehearsal.bundle)
    # While the victim's site trains in its first round.
    wait_for(lambda: trainings(rehearsal) > before)
    # Not one that is about to end: the one that this instruction starts.
    old = set(client_apps(rehearsal))
    wait_for(lambda: set(client_apps(rehearsal)) - old)
    wait_for(lambda: set(VICTIMS[victim](rehearsal)) - old)
    for pid in set(VICTIMS[victim](rehearsal)) - old:
        os.kill(pid, SIGNALS.get(victim, signal.SIGKILL))
    resumed = carry_on(rehearsal, study, folder)
    print(f"{victim}: resumed {resumed} times, {time.monotonic() - began:.0f} s")
    if VICTIMS[victim] is at_work:
        words = "was killed at work; handed down again"
        assert words in (rehearsal.sites[VICTIM].folder / "logs" / "gate.log").read_text()
        assert resumed == 0
    assert differences(folder, alone) == []
    check_ledgers(rehearsal, folder)


def test_a_study_survives_a_reboot_of_everything(rehearsal: Rehearsal, tmp_path: Path) -> None:
    """All processes of center and sites end at once, and all are started again."""
    study = study_of(100)
    alone = run_study_here(study, Engine.inprocess, Path(), tmp_path / "alone", resume=False)
    folder = rehearsal.place.runs / "reboot"
    rehearsal.wait_online()
    began = time.monotonic()
    before = trainings(rehearsal)
    submit(rehearsal.place, study, folder, rehearsal.bundle)
    wait_for(lambda: trainings(rehearsal) > before)
    killed = everything(rehearsal)
    for pid in killed:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert len(killed) > 4 * len(rehearsal.sites)
    wait_for(lambda: not any(is_alive(pid) for pid in killed), 60)
    rehearsal.down()
    rehearsal.up()
    resumed = carry_on(rehearsal, study, folder)
    print(f"reboot: {len(killed)} processes, {resumed} times, {time.monotonic() - began:.0f} s")
    assert resumed >= 1
    assert differences(folder, alone) == []
    check_ledgers(rehearsal, folder)


def is_alive(pid: int) -> bool:
    """Whether a process still runs; one that only waits to be buried does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def check_ledgers(rehearsal: Rehearsal, folder: Path) -> None:
    """Every site's ledger, held against the center's receipts."""
    for site in rehearsal.sites.values():
        verdict = ledger_check.verify(
            site.ledger,
            read_public_key(public_path(site.gate / "ledger.key")),
            receipts_of(rehearsal.place),
            read_public_key(public_path(folder / KEY_FILE)),
        )
        assert verdict.problem is None

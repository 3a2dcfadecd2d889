"""`sonofed site check --egress`: canaries, tricks and trace through THIS site's gate and policy.

The gate is the site's own program under the site's own policy, with keys and a ledger for the
occasion; where the centre would be there is a sink on this machine. Nothing of the site's data is
touched, nothing leaves the machine. What was found is signed into the site's ledger.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import typer

from clients.gate.book import Book
from clients.gate.policy_file import load_policy
from clients.site_file import SiteFile
from common.errors import InputError
from scripts.audit import connections, controls
from scripts.audit.canary import Canaries, write_site
from scripts.audit.door import make_door, small_bundle
from scripts.audit.experiment import DOOR, note_controls, note_door, secrets_of
from scripts.audit.needles import needles_of
from scripts.audit.proof import Proof
from scripts.audit.search import Searcher
from scripts.audit.subject import FEW, shortened, subject_of
from scripts.audit.tricks import all_tricks
from scripts.foreign import tell
from scripts.live import Steps, say

SIDE = 32
LARGE = 50_000_000
"""Bytes from which on a message is shortened: forty of them would take hours."""


def check_egress(site: SiteFile) -> None:
    """Try a site's gate, say what was found, and sign it into the site's ledger.

    Args:
        site: The site's file.

    Raises:
        InputError: If the policy is not sound or lets nothing out, or the ledger cannot be
            written: while the site's gate runs it is the gate's.
    """
    policy = load_policy(site.gate.policy)
    if policy.file.site != site.site.name:
        raise InputError(
            f"{site.gate.policy}: is the policy of {policy.file.site}, not of {site.site.name}"
        )
    subject = subject_of(policy)
    large = subject.bytes > LARGE
    pinned = policy.file.studies[subject.study["name"]].digest is not None
    # Found out first: a result that cannot be signed is none.
    with _book(site):
        pass
    say(
        f"{site.site.name}: {len(all_tricks())} tricks through its gate with its policy; "
        "nothing leaves this machine"
    )
    work = Path(tempfile.mkdtemp(prefix="sonofed-egress-"))
    try:
        policy_file = site.gate.policy
        if large or pinned:
            most = FEW if large else len(subject.exchange.up)
            policy_file = shortened(policy_file, policy, subject, work / "policy", most)
        if large:
            say(f"{subject.name} has {subject.bytes / 1e6:.0f} MB: tried with six of its tensors")
        if pinned:
            say("the policy names one study by its digest: tried with another's in its place")
        proof = _tried(site, policy_file, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    for check in proof.checks:
        tell(f"{check.state:>8}  {check.claim}: {check.words}")
    for words in proof.controls.skipped if proof.controls else ():
        tell(f" skipped  {words}")
    with _book(site) as book:
        line = book.ledger.append(event_of(proof, policy.file.digest, whole=not large))
    say(f"signed: ledger line {line.sequence} of {book.ledger.path}")
    if not proof.passed:
        raise typer.Exit(1)


def _book(site: SiteFile) -> Book:
    try:
        return Book(site.gate.folder, site.site.name, "gate")
    except InputError as error:
        if "another process" in str(error):
            raise InputError(
                f"{site.gate.folder}: the site's gate is running, and its ledger is its own "
                "meanwhile; `sonofed site down` first"
            ) from None
        raise


def _tried(site: SiteFile, policy_file: Path, work: Path) -> Proof:
    proof, steps = Proof(quick=True), Steps()
    policy = load_policy(policy_file)
    subject = subject_of(policy)
    made: Canaries = write_site(work / "data", site.site.name, seen=SIDE)
    searcher = Searcher(needles_of(made))
    door = make_door(work / "door", site.site.name, small_bundle())
    trace = connections.is_there()
    with steps.step("tricks through the gate") as progress:
        proof.controls = controls.try_gate(
            door, policy, policy_file, site.site.role, subject,
            secrets_of(made, site.site.name), searcher, trace=trace, progress=progress,
        )  # fmt: skip
    note_controls(proof, proof.controls)
    if trace:
        proof.gate = connections.read(door.trace)
        note_door(proof, proof.gate, door.upstream)
    else:
        proof.skip("door", DOOR, "strace is not installed")
    return proof


def event_of(proof: Proof, policy: str, *, whole: bool = True) -> dict[str, Any]:
    """What the ledger says of a check.

    Args:
        proof: What was found.
        policy: Digest of the policy that it was found with.
        whole: Whether with all tensors of a message.
    """
    found = proof.controls
    assert found is not None
    every = [*found.tricks, *found.instructions]
    return {
        "kind": "checked",
        "policy": policy,
        "holds": "yes" if proof.passed else "no",
        "tricks": len(every),
        "message": "whole" if whole else "six tensors of it",
        "caught": sum(control.caught for control in every),
        "failed": [check.name for check in proof.checks if check.state == "FAILED"],
        "skipped": [*(check.name for check in proof.skipped), *found.skipped],
    }

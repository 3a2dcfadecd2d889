"""The reviewer's experiment, step by step; each step notes what held in a `Proof`."""

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clients import namespace
from clients.gate.policy_file import load_policy
from clients.supernode import INSIDE_PORT, can_be_shut_in
from common.errors import InputError
from common.ledger_check import read
from scripts.audit import connections, controls, stage, staged
from scripts.audit.canary import Canaries
from scripts.audit.capture import account_of
from scripts.audit.connections import Connection
from scripts.audit.door import make_door, small_bundle
from scripts.audit.needles import needles_of
from scripts.audit.proof import Proof
from scripts.audit.reconcile import reconcile
from scripts.audit.recorder import Recorder, Target
from scripts.audit.search import Found, Searcher
from scripts.audit.subject import shortened, subject_of
from scripts.audit.tricks import Secret
from scripts.consortium.rehearsal import Rehearsal
from scripts.engines import guard
from scripts.live import Live, Steps, say
from server.consortium import front

STUDY = "a whole study runs through the gates: nginx, SuperLink, gates, SuperNodes, all real"
SEARCH = "no canary is in anything that left the hospitals, in any form that is looked for"
BYTES = "each recorded byte belongs to a request of Flower's, and none holds anything more"
LEDGERS = "each site's ledger is sound, and says of each reply what is on the wire, to the byte"
NETWORK = "the code that trains has no network but the way to its gate"
CONNECTIONS = "no process tries to reach anything beyond this machine, nor listens to it"
GATE = "each trick is caught by a gate: a code leaves, or an honest rest"
FINDS = "past the gate, the search finds what each trick carries"
DOOR = "the gate itself dials one address, its upstream's"

END_S = 60.0


@dataclass
class Experiment:
    """One audit.

    Attributes:
        folder: Everything lies in here.
        proof: What is found.
    """

    folder: Path
    proof: Proof

    def run(self) -> Proof:
        """All of it. What this machine cannot do is skipped by name."""
        proof, steps = self.proof, Steps()
        study = staged.study(quick=proof.quick)
        with proof.timed("canaries"):
            made = staged.write_data(self.folder / "data", study)
            searcher = Searcher(needles_of(made))
        proof.canaries = {
            "images": len(made.pictures) // 2,
            "masks": len(made.masks) // 2,
            "words": len({text for _, text in made.texts}),
            "needles": len(searcher.needles.words) + len(searcher.needles.orders),
        }
        say(f"canaries: {proof.canaries['images']} images of noise at {len(study.sites)} hospitals,"
            f" {proof.canaries['words']} names and paths")  # fmt: skip
        policy_file = self._study(searcher)
        self._controls(made, searcher, policy_file, steps)
        return proof

    # A study under watch.

    def _study(self, searcher: Searcher) -> Path:
        """Run a study and look at all that it did; gives a site's policy."""
        proof = self.proof
        shut_in = can_be_shut_in()
        staging = stage.rehearsal(self.folder, quick=proof.quick, open_network=not shut_in)
        staging.prepare()
        site = next(reversed(staging.sites.values()))
        policy_file = site.folder / "policy.toml"
        proof.study = {
            "name": staging.study.name, "sites": list(staging.sites), "empty_network": shut_in,
        }  # fmt: skip
        try:
            front.executable()
        except InputError as error:
            for name, claim in (
                ("study", STUDY), ("search", SEARCH), ("bytes", BYTES), ("ledgers", LEDGERS),
                ("network", NETWORK), ("connections", CONNECTIONS),
            ):  # fmt: skip
                proof.skip(name, claim, "\n".join(error.problems))
            return policy_file
        run = staging.place.runs / "audit"
        wire = self.folder / "wire"
        with (
            proof.timed("study"),
            Recorder(
                wire,
                Target(lambda: staging.superlink_url.removeprefix("https://"), staging.place.ca),
            ) as recorder,
        ):
            code = self._stage(f"http://127.0.0.1:{recorder.port}", run, staging, shut_in)
        ports = self._ports(staging, recorder.port)
        replies = {
            name: sum(line.event["kind"] == "reply" for line in read(one.ledger))
            for name, one in staging.sites.items() if one.ledger.exists()
        }  # fmt: skip
        whole = code == 0 and (run / "results.json").exists()
        rounds = f"{sum(replies.values())} replies of {len(replies)} hospitals"
        proof.check("study", STUDY, whole, rounds if whole else _last_words(self.log))
        self._search(wire, searcher)
        self._account(wire, staging, run)
        self._network(staging, shut_in, ports)
        return policy_file

    @property
    def log(self) -> Path:
        """What the watched part says."""
        return self.folder / "stage.log"

    @property
    def trace(self) -> Path:
        """What strace wrote of the watched part."""
        return self.folder / "stage.strace"

    def _stage(self, upstream: str, run: Path, staging: Rehearsal, shut_in: bool) -> int:
        command = [
            sys.executable,
            "-m",
            "scripts.audit.stage",
            str(self.folder),
            upstream,
            str(run),
        ]
        command += ["--quick"] if self.proof.quick else []
        command += [] if shut_in else ["--open-network"]
        if connections.is_there():
            command = connections.traced(command, self.trace)
        say("the consortium starts: nginx, SuperLink, a gate and a SuperNode for each hospital")
        with self.log.open("wb") as log, Live(run, staging.study):
            process = subprocess.Popen(
                [sys.executable, guard.__file__, *command],
                stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
            try:
                return process.wait()
            finally:
                assert process.stdin is not None
                process.stdin.close()
                process.wait(END_S)

    @staticmethod
    def _ports(staging: Rehearsal, recorder: int) -> dict[str, str]:
        """Known addresses, by the name of what listens there."""
        found = {
            staging.front_address: "front",
            staging.superlink_url.removeprefix("https://"): "SuperLink",
            f"127.0.0.1:{recorder}": "recorder",
            f"127.0.0.1:{INSIDE_PORT}": "SuperNode, inside",
        }
        for site in staging.sites.values():
            for line in site.site_file.read_text(encoding="utf-8").splitlines():
                if line.startswith("listen = "):
                    found[line.split('"')[1]] = "gate's door"
        return found

    def _search(self, wire: Path, searcher: Searcher) -> None:
        proof = self.proof
        with proof.timed("search"):
            proof.up, proof.down = (
                _searched(wire, way, searcher, Steps()) for way in ("up", "down")
            )
        problems = [f"{hit.what}: {hit.how}" for hit in (*proof.up.hits, *proof.down.hits)]
        problems += [*proof.up.skipped, *proof.down.skipped]
        up, down = proof.up.bytes / 1e6, proof.down.bytes / 1e6
        words = f"{up:.1f} MB that left and {down:.1f} MB that came in, searched in clear"
        holds = not problems and proof.up.bytes > 0
        proof.check("search", SEARCH, holds, "; ".join(problems[:3]) or words)

    def _account(self, wire: Path, staging: Rehearsal, run: Path) -> None:
        proof = self.proof
        account = proof.account = account_of(wire, self.folder / "objects")
        shutil.rmtree(self.folder / "objects")
        ledgers = {n: one.ledger for n, one in staging.sites.items() if one.ledger.exists()}
        receipts = run / "receipts.jsonl"
        proof.sites = reconcile(account, ledgers, receipts if receipts.exists() else None)
        rest = account.bytes - account.heads - sum(account.bodies.values())
        words = (
            f"{account.bytes:,} bytes in {sum(account.requests.values()):,} requests: "
            f"{account.payload:,} of weights and scalars, the rest heads, names, heartbeats"
        )
        problems = account.problems + ([f"{rest} bytes belong to nothing"] if rest else [])
        proof.check("bytes", BYTES, not problems, "; ".join(problems[:3]) or words)
        wrong = [f"{one.site}: {words}" for one in proof.sites for words in one.problems]
        total = sum(one.bytes for one in proof.sites)
        good = f"{sum(one.replies for one in proof.sites)} replies, {total:,} bytes, all confirmed"
        confirmed = all(one.confirmed + one.given_up >= one.replies for one in proof.sites)
        if not confirmed and not wrong:
            wrong = ["the server has not signed for every reply"]
        proof.check("ledgers", LEDGERS, bool(ledgers) and not wrong, "; ".join(wrong[:3]) or good)

    def _network(self, staging: Rehearsal, shut_in: bool, ports: dict[str, str]) -> None:
        proof = self.proof
        if not connections.is_there():
            proof.skip("connections", CONNECTIONS, "strace is not installed")
            proof.skip("network", NETWORK, "strace is not installed")
            return
        found = connections.read(self.trace)
        proof.connections = [(one, ports.get(one.address, "")) for one in found]
        out = [one for one in found if one.leads_out or one.listens_out]
        tried = sum(one.call == "connect" for one in found)
        words = f"{tried} different addresses dialled, all of this machine"
        bad = "; ".join(f"{one.program} {one.call} {one.address} ({one.result})" for one in out[:5])
        proof.check("connections", CONNECTIONS, bool(found) and not out, bad or words)
        if not shut_in:
            why = "this machine lets no process into an empty network (user namespaces are off)"
            proof.skip("network", NETWORK, why)
            return
        allowed = {address for address, name in ports.items() if name == "gate's door"}
        allowed.add(f"127.0.0.1:{INSIDE_PORT}")  # the SuperNode's own, inside
        trained = [
            one for one in found
            if one.program in TRAINING and one.call != "bind" and one.family != "unix"
        ]  # fmt: skip
        wrong = [f"{one.program} {one.address}" for one in trained if one.address not in allowed]
        if reached := probe():
            wrong.append(f"from an empty network a probe reached {reached}")
        words = (
            f"SuperNodes and ClientApps dialled {', '.join(sorted({o.address for o in trained}))} "
            "in networks of their own; from such a network a probe reached nothing"
        )
        proof.check("network", NETWORK, bool(trained) and not wrong, "; ".join(wrong[:5]) or words)

    # Tricks.

    def _controls(
        self, made: Canaries, searcher: Searcher, policy_file: Path, steps: Steps
    ) -> None:
        proof = self.proof
        policy = load_policy(policy_file)
        site = policy.file.site
        subject = subject_of(policy)
        short = shortened(policy_file, policy, subject, self.folder / "policy")
        policy = load_policy(short)
        subject = subject_of(policy)
        secrets = secrets_of(made, site)
        door = make_door(self.folder / "door", site, small_bundle())
        trace = connections.is_there()
        with proof.timed("tricks"), steps.step("tricks through a gate") as progress:
            proof.controls = controls.try_gate(
                door, policy, short, "target", subject, secrets, searcher,
                trace=trace, progress=progress,
            )  # fmt: skip
        with proof.timed("tricks in clear"), steps.step("tricks past the gate") as progress:
            controls.try_search(
                self.folder / "clear", policy, subject, secrets, searcher, proof.controls, progress
            )
        note_controls(proof, proof.controls)
        if trace:
            proof.gate = connections.read(door.trace)
            note_door(proof, proof.gate, door.upstream)
        else:
            proof.skip("door", DOOR, "strace is not installed")


TRAINING = ("flower-supernode", "executor.py", "flwr-clientapp", "namespace.py")
"""Programs at a site that run, or may run, the study's code."""


PROBE = """
import json, os, socket, sys
sys.path[0:0] = [sys.argv[1]]
import namespace
namespace.leave(rooted=False)
namespace.loopback_up()
reached = []
for host, port in json.loads(sys.argv[2]):
    try:
        socket.create_connection((host, port), timeout=3).close()
        reached.append(f"{host}:{port}")
    except OSError:
        pass
print(json.dumps(reached))
"""


def probe() -> str:
    """What a process reaches from an empty network: nothing, or the claim falls.

    It tries a listener of this machine, and addresses outside of it.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        # The same listener can be reached from here: the probe is no probe of a closed door.
        socket.create_connection(("127.0.0.1", port), timeout=3).close()
        targets = json.dumps([["127.0.0.1", port], ["192.0.2.1", 80], ["8.8.8.8", 53]])
        folder = str(Path(namespace.__file__).parent)
        done = subprocess.run(
            [sys.executable, "-c", PROBE, folder, targets],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    if done.returncode:
        return f"nothing can be said: {done.stderr.strip().splitlines()[-1:]}"
    return ", ".join(json.loads(done.stdout))


def secrets_of(made: Canaries, site: str) -> Callable[[int], Secret]:
    """What the n-th trick smuggles: another image, patient and path each time."""
    pictures = [
        plane for what, plane in made.pictures
        if what.startswith(f"{site}:") and "as trained" not in what
    ]  # fmt: skip
    words = {
        kind: [text for what, text in made.texts if what == f"{site}: {kind}"]
        for kind in ("patient", "folder", "file name")
    }

    def secret(number: int) -> Secret:
        place = number % len(pictures)
        path = f"{words['folder'][0]}/images/{words['file name'][place]}"
        patient = words["patient"][number % len(words["patient"])]
        return Secret(pictures[place], patient, path)

    return secret


def note_controls(proof: Proof, found: controls.Controls) -> None:
    """Whether the tricks were caught, and found."""
    every = [*found.tricks, *found.instructions]
    missed = [control for control in every if not control.caught]
    words = f"{len(every)} of {len(every)}, after an honest reply had passed"
    if not found.honest:
        words = f"the honest reply did not pass: {found.honest_words}"
    elif missed:
        words = "; ".join(f"{control.name} ({control.words or 'passed'})" for control in missed[:5])
    proof.check("gate", GATE, found.honest and bool(every) and not missed, words)
    looked_for = [control for control in found.tricks if control.found is not None]
    lost = [control.name for control in looked_for if not control.found]
    rest = len(found.tricks) - len(looked_for)
    words = f"{len(looked_for)} of {len(looked_for)}; {rest} carry a few bits and no copy"
    if looked_for:
        proof.check("finds", FINDS, not lost, "; ".join(lost[:5]) or words)


def note_door(proof: Proof, found: list[Connection], upstream: str) -> None:
    """Whether the gate's process dialled its upstream only."""
    wrong = [one for one in found if one.call != "bind" and one.family not in ("unix", "AF_UNSPEC")
             and one.address not in (upstream, "")]  # fmt: skip
    wrong += [one for one in found if one.listens_out]
    bad = "; ".join(f"{one.program} {one.call} {one.address}" for one in wrong[:5])
    proof.check("door", DOOR, bool(found) and not wrong, bad or f"{upstream}, and nothing else")


def _searched(wire: Path, way: str, searcher: Searcher, steps: Steps) -> Found:
    found = Found()
    files = sorted(wire.glob(f"*.{way}"))
    with steps.step(f"searching what went {way}") as progress:
        for number, path in enumerate(files, 1):
            found.merge(searcher.file(path))
            progress(number, len(files))
    return found


def _last_words(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return " / ".join(lines[-3:]) or "it said nothing"


__all__ = ["Experiment", "note_controls", "note_door", "secrets_of"]

"""A whole consortium on one machine: nginx, SuperLink, and a gate and a SuperNode for every site.

Everything is what a real consortium runs, in processes of its own: TLS with an authority of its
own, client certificates, node keys, gates with policies and ledgers, SuperNodes in empty networks.
Only the distance is missing. `sonofed poc`, `make poc`, the audit's proof and the tests use it:

    study = load_study(Path("configs/demo.toml"), [])
    with Rehearsal(Path("poc"), study) as rehearsal:      # up; afterwards nothing is left running
        run = rehearsal.run()                             # submits, waits; the run folder
        rehearsal.sites["hillcrest"].ledger               # each site's ledger.jsonl

A recorder between front and SuperLink (so that all that leaves the hospitals is seen in clear)
listens somewhere on loopback and passes everything on to `rehearsal.superlink_url`:

    rehearsal = Rehearsal(folder, study)
    rehearsal.prepare()                                   # files and ports, no process yet
    rehearsal.upstream = "http://127.0.0.1:12345"         # the recorder; it may speak plain http
    with rehearsal: ...

Other code at the sites (a ClientApp that cheats): `Rehearsal(..., change=function)`; it gets the
staged app's folder before the bundle is built and approved. `approve=False`: nobody approves it.
Another gate: `Rehearsal(..., gate_module="package.module")`, run as `python -m` in place of the
gate with the same arguments. Environment of a site's training: `rehearsal.sites[name].environment`.
"""

import common.environment  # noqa: F401, I001 - before Flower

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from clients import supervisor
from clients.site_file import load_site
from common.config.study import Study
from common.errors import InputError
from common.keeper import is_up, kill, read_status, stop_keeper
from scripts import prepare
from scripts.consortium import keep
from scripts.consortium.rehearsal_site import RehearsalSite
from scripts.keepers import start_keeper
from scripts.live import Steps
from scripts.ports import free_ports
from scripts.study.bundle import Bundle, build
from scripts.study.submit import check, submit, wait
from server.consortium import membership, superlink
from server.consortium import register as registers
from server.consortium.place import Place, write_file
from server.consortium.register import Register

ONLINE_S, POLL_S = 300.0, 0.5
INSIDE = 9701
"""Port of the gate in a SuperNode's own empty network."""
CENTER, SITES, MARK = "center", "sites", "rehearsal.json"
"""Folders of a rehearsal, and the file that says that it is one."""


class Rehearsal:
    """A consortium on one machine; a context manager that brings it up and takes it down.

    Args:
        folder: Everything lies in here: `center/`, `sites/NAME/`, `data/`.
        study: Its sites are the consortium's.
        data_root: Folder that the sites' folders lie in, where their data are no phantom.
        approve: Sign at every site that the bundle may run.
        change: Changes the staged code before the bundle is built.
        gate_module: A module that runs in place of the gate.
        minimum: Smallest count of people in the sites' policies.
        open_network: SuperNodes without an empty network.
    """

    def __init__(
        self,
        folder: Path,
        study: Study,
        *,
        data_root: Path = Path("data"),
        approve: bool = True,
        change: Callable[[Path], None] | None = None,
        gate_module: str = "",
        minimum: int = 1,
        open_network: bool = False,
    ) -> None:
        self.folder = folder.absolute()
        self.study = study
        self.data_root = data_root
        self.approves = approve
        self.change = change
        self.gate_module = gate_module
        self.minimum = minimum
        self.open_network = open_network
        self.upstream: str | None = None
        self.place = Place(self.folder / CENTER)
        self.sites: dict[str, RehearsalSite] = {}
        self._bundle: Bundle | None = None
        self._keepers: list[tuple[Path, subprocess.Popen[bytes]]] = []

    @classmethod
    def of(cls, folder: Path) -> "Rehearsal":
        """A rehearsal that lies in a folder, to look at and to take down; whatever its study."""
        found = cls.__new__(cls)
        found.folder = folder.absolute()
        found.place, found.sites, found._keepers = Place(found.folder / CENTER), {}, []
        return found

    @property
    def register(self) -> Register:
        """The consortium's register, as it is now."""
        return registers.read(self.place)

    @property
    def superlink_url(self) -> str:
        """Where the SuperLink answers, over TLS; `place.ca` vouches for it as "localhost"."""
        return f"https://{superlink.address(self.register)}"

    @property
    def front_address(self) -> str:
        """Host and port of the front."""
        return self.register.address

    @property
    def bundle(self) -> Bundle:
        """The code that runs at the sites, built once."""
        if self._bundle is None:
            self._bundle = build(self.change)
        return self._bundle

    def prepare(self) -> None:
        """Data, consortium, sites that have joined, policies, approvals; no process yet.

        Raises:
            InputError: If the data are not sound, or a policy would refuse the study.
        """
        steps = Steps()
        self.folder.mkdir(parents=True, exist_ok=True)
        mark = {"minimum": self.minimum, "data_root": str(self.data_root.absolute())}
        write_file(self.folder / MARK, json.dumps(mark).encode())
        phantom = prepare.make_phantom(self.study, self.folder, steps)
        settings = prepare.site_settings(
            self.study, self.folder, self.folder / "cache", self.data_root, phantom
        )
        with prepare.scratch() as scratch:
            looked_at = [s.model_copy(update={"folder": scratch / s.name}) for s in settings]
            prepare.check_sites(self.study, looked_at, steps)
        address = self._found()
        for one in settings:
            site = RehearsalSite(one, self.folder / SITES / one.name, self.minimum)
            listen = f"127.0.0.1:{free_ports(1)[0] if self.open_network else INSIDE}"
            site.join(self.place)
            site.write(address, listen, open_network=self.open_network)
            site.allow(self.study)
            if self.approves:
                site.approve(self.bundle.data, self.bundle.sha256)
            self.sites[one.name] = site

    def _found(self) -> str:
        """Have a consortium, at ports that are free now; where its front is reached."""
        front, port, health = free_ports(3)
        address = f"127.0.0.1:{front}"
        if not self.place.register.exists():
            membership.found(self.place, "rehearsal", address, address, port, health, ["localhost"])
        elif not is_up(self.place.status):
            with registers.changing(self.place) as register:
                register.address = register.listen = address
                register.superlink, register.health = port, health
        return self.register.address

    def up(self, *, detached: bool = False) -> None:
        """Start everything, and wait until every site's node is online.

        Args:
            detached: Leave it running when this process ends; `down` ends it.

        Raises:
            InputError: If something does not start; what is running is taken down again.
        """
        if not self.sites:
            self.prepare()
        try:
            more = ["--upstream", self.upstream] if self.upstream else []
            self._keep("scripts.consortium.keep", self.place.root, more, detached)
            if not keep.wait_healthy(self.place, self.register):
                raise InputError(f"the SuperLink does not start; see {self.place.logs}")
            keep.settle(self.place)
            for site in self.sites.values():
                self._start_site(site, detached)
            self.wait_online()
        except BaseException:
            self.down()
            raise

    def _start_site(self, site: RehearsalSite, detached: bool = False) -> None:
        more = [f"--set={name}={value}" for name, value in site.environment.items()]
        if self.gate_module:
            more.append(f"--gate-module={self.gate_module}")
        self._keep("clients.supervisor", site.site_file, more, detached)

    def wait_online(self, timeout_s: float = ONLINE_S) -> None:
        """Wait until every site's node is online.

        Raises:
            InputError: Naming those that are not.
        """
        from server.consortium.control import Control

        end = time.monotonic() + timeout_s
        wanted = set(self.sites)
        with Control(self.place, self.register) as control:
            while True:
                online = {node.name for node in control.nodes() if node.status == "online"}
                if wanted <= online:
                    return
                if time.monotonic() > end:
                    logs = ", ".join(
                        str(self.sites[name].folder / "logs") for name in sorted(wanted - online)
                    )
                    raise InputError(
                        f"not online: {', '.join(sorted(wanted - online))}; see {logs}"
                    )
                time.sleep(POLL_S)

    def down(self) -> None:
        """Stop everything that runs in this folder, started here or by another process."""
        statuses = [site / supervisor.STATUS for site in sorted(self.folder.glob(f"{SITES}/*"))]
        for status in [*statuses, self.place.status]:
            stop_keeper(status)
        for _, process in self._keepers:
            if process.stdin is not None:
                process.stdin.close()
            process.wait()
        self._keepers.clear()

    def status(self) -> dict[str, Any]:
        """What runs: of the center and of each site, what its keeper says; None where none does."""
        sites = sorted(self.folder.glob(f"{SITES}/*"))
        return {
            "center": read_status(self.place.status),
            **{site.name: read_status(site / supervisor.STATUS) for site in sites},
        }

    def submit(self, out: Path | None = None, *, resume: bool = False) -> tuple[Path, int]:
        """Start the study.

        Returns:
            Run folder, and Flower's number of the run.
        """
        folder = out or self.place.runs / f"{self.study.name}-{self.study.digest[:8]}"
        run_id = submit(self.place, self.study, folder, self.bundle, resume=resume)
        return folder, run_id

    def run(self, out: Path | None = None, *, resume: bool = False) -> Path:
        """Start the study, and wait until it has ended.

        Raises:
            StudyStopped: If it did not finish; why is in its text and in the sites' own logs.
        """
        folder, run_id = self.submit(out, resume=resume)
        self.wait(folder, run_id)
        return folder

    def wait(self, folder: Path, run_id: int) -> None:
        """Wait until a run has ended.

        Raises:
            StudyStopped: See `run`.
        """
        check(folder, wait(self.place, run_id))

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.down()

    def _keep(
        self,
        module: str,
        target: Path,
        more: list[str],
        detached: bool,
    ) -> None:
        """Start a keeper: ended by `down`, or when this process goes, whichever way it does."""
        folder = target if target.is_dir() else target.parent
        log = folder / supervisor.LOGS / "keeper.log"
        process = start_keeper(module, target, more, log, guarded=not detached)
        status = folder / supervisor.STATUS
        self._keepers.append((status, process))


def allow_here(place: Place, study: Study, bundle: Bundle) -> None:
    """In a rehearsal, have its sites' data, policies and approvals be those that a study needs.

    Where the folder is no rehearsal's, nothing is done: hospitals decide for themselves.

    Raises:
        InputError: If a policy would refuse the study.
    """
    folder = place.root.absolute().parent
    if place.root.name != CENTER or not (folder / MARK).exists():
        return
    mark = json.loads((folder / MARK).read_text(encoding="utf-8"))
    phantom = prepare.make_phantom(study, folder, Steps())
    root = Path(mark["data_root"])
    for one in prepare.site_settings(study, folder, folder, root, phantom):
        site = RehearsalSite(one, folder / SITES / one.name, mark["minimum"])
        if not site.site_file.exists():
            continue  # `submit` says that it is no member
        before, file = site.told, load_site(site.site_file)
        site.write(
            file.upstream.address, file.gate.listen,
            open_network=file.network.allow_open_network,
        )  # fmt: skip
        site.allow(study)
        site.approve(bundle.data, bundle.sha256)
        status = read_status(site.folder / supervisor.STATUS)
        if status is not None and site.told != before:
            # A gate reads its policy when it starts, and it starts again with its SuperNode.
            kill(int(status["services"]["supernode"]["pid"]), signal.SIGTERM)


def differences(run: Path, other: Path) -> list[str]:
    """Weights and results in which two runs of one study differ, in words; empty if in none."""
    found = []
    ours, theirs = (
        {path.relative_to(folder) for path in folder.rglob("*.safetensors")
         if path.relative_to(folder).parts[0] != "sites"}
        for folder in (run, other)
    )  # fmt: skip
    found += [f"{path}: is in one run only" for path in sorted(ours ^ theirs)]
    found += [
        f"{path}: other weights" for path in sorted(ours & theirs)
        if (run / path).read_bytes() != (other / path).read_bytes()
    ]  # fmt: skip
    results = [json.loads((folder / "results.json").read_bytes()) for folder in (run, other)]
    if results[0] != results[1]:
        keys = [key for key in results[0] if results[0][key] != results[1].get(key)]
        found.append(f"results.json: {', '.join(keys)}")
    if not ours:
        found.append("no weights in the run")
    return found

"""A round of Flower's real processes through the gate, and the same without it.

SuperLink over TLS, ServerApp, two SuperNodes with their ClientApps, all on loopback. One node goes
through gate and nginx, the other straight to the SuperLink. They are asked in turn, so that a busy
machine slows both alike.
"""

import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from clients import join
from clients.gate.manifest import Exchange, Manifest, Metric, Tensor, digest, dump
from clients.gate.node_key import make_node_key
from common.environment import SWITCHES
from common.keeper import spawn, stop_keeper, stop_process
from scripts.bench import round_app
from scripts.consortium import keep
from scripts.keepers import start_keeper
from scripts.ports import free_ports
from server.consortium import membership, superlink
from server.consortium import register as registers
from server.consortium.control import Control, RunState
from server.consortium.place import Place
from server.consortium.register import Register

Shape = tuple[int, ...]
NAMES = ("gated", "direct")
PROJECT = """
[project]
name = "bench-round"
version = "1.0.0"
license = "Apache-2.0"
[tool.flwr.app]
publisher = "sonofed"
fab-include = ["round_app.py"]
[tool.flwr.app.components]
serverapp = "round_app:server"
clientapp = "round_app:client"
[tool.flwr.app.config]
plan = ""
"""
POLICY = """
site = "gated"
[studies.bench]
manifest = "bench.json"
sha256 = "{manifest}"
[stages.mim]
update_norm = 1.0
[metrics]
loss = {{ kind = "number", low = -10, high = 10 }}
[study]
name = {{}}
[limits]
message_mb = 100000
day_mb = 1000000
[bundles]
approved = ["{bundle}"]
"""


@dataclass(frozen=True)
class Rounds:
    """What was measured.

    Attributes:
        seconds: Of each round, by the node's name.
        gate_peak_mb: Largest resident memory of the gate's process.
    """

    seconds: Mapping[str, list[float]]
    gate_peak_mb: float

    def median(self, name: str) -> float:
        """Of the rounds behind the first, in which processes and caches warm up."""
        return statistics.median(self.seconds[name][1:])


def measure(tensors: Mapping[str, Shape], *, rounds: int, seed: int) -> Rounds:
    """Run it.

    Args:
        tensors: Names and shapes of the float32 tensors that go down and come back.
        rounds: For each node, one more than count.
        seed: Of the weights.
    """
    with tempfile.TemporaryDirectory(prefix="round-") as name, ExitStack() as stack:
        folder = Path(name)
        place, out = Place(folder / "center"), folder / "seconds.jsonl"
        bundle = _bundle(folder)
        register, listen = _found(place, folder / "gated", bundle, tensors)
        stack.enter_context(_center(place, register))
        nodes, gate = _nodes(folder, place, register, listen, stack)
        plan = {
            "nodes": nodes, "rounds": rounds, "seed": seed, "out": str(out),
            "tensors": [[key, list(shape)] for key, shape in tensors.items()],
        }  # fmt: skip
        (folder / "plan.json").write_text(json.dumps(plan))
        with Control(place, register) as control:
            run = control.start(bundle, {"plan": str(folder / "plan.json")})
            while (state := _state(control, run)) is None or not state.over:
                time.sleep(2)
        if state.outcome != "completed":
            raise RuntimeError(f"the run did not finish: {state.details}")
        lines = [json.loads(line) for line in out.read_text().splitlines()]
        if any(line["error"] for line in lines):
            raise RuntimeError(f"a node answered with an error: {lines}")
        seconds = {n: [line["seconds"] for line in lines if line["node"] == n] for n in NAMES}
        return Rounds(seconds, peak_mb(gate.pid))


def _state(control: Control, run: int) -> RunState | None:
    """How the run stands; None where the SuperLink is too busy to say (its database is locked)."""
    try:
        return control.run(run)
    except httpx.HTTPError:
        return None


def peak_mb(pid: int) -> float:
    """Largest resident memory of a process, MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"{pid} has no memory")


def _found(
    place: Place, site: Path, bundle: bytes, tensors: Mapping[str, Shape]
) -> tuple[Register, str]:
    """A consortium with one member, and where the member's gate will listen."""
    front, gate, superlink_port, health = free_ports(4)
    address, listen = f"127.0.0.1:{front}", f"127.0.0.1:{gate}"
    register = membership.found(place, "bench", address, address, superlink_port, health)
    site.mkdir()
    invitation, admission = site / "invitation.json", site / "admission.json"
    invitation.write_text(membership.invite(place, "gated").model_dump_json())
    join.write_site_file(
        site, name="gated", role="target", data=site, address=address, listen=listen
    )
    request = join.ask(invitation, site, data=site, role="target")
    given = membership.admit(place, membership.read_request(request))
    admission.write_text(given.model_dump_json())
    join.take(admission, site)
    found = _manifest(tensors)
    (site / "bench.json").write_text(dump(found))
    sha256 = hashlib.sha256(bundle).hexdigest()
    (site / join.POLICY_FILE).write_text(POLICY.format(manifest=digest(found), bundle=sha256))
    return register, listen


@contextmanager
def _center(place: Place, register: Register) -> Iterator[None]:
    """SuperLink and nginx."""
    log = place.logs / "keeper.log"
    process = start_keeper("scripts.consortium.keep", place.root, [], log, guarded=True)
    try:
        if not keep.wait_healthy(place, register):
            raise RuntimeError("the SuperLink does not start")
        yield
    finally:
        stop_keeper(place.status)
        assert process.stdin is not None
        process.stdin.close()
        process.wait()


def _bundle(folder: Path) -> bytes:
    from flwr.cli.build import build_fab_from_disk

    app = folder / "bench-round"
    app.mkdir()
    (app / "pyproject.toml").write_text(PROJECT)
    (app / "round_app.py").write_bytes(Path(round_app.__file__).read_bytes())
    return build_fab_from_disk(app)


def _nodes(
    folder: Path, place: Place, register: Register, listen: str, stack: ExitStack
) -> tuple[dict[str, int], "subprocess.Popen[bytes]"]:
    """Both SuperNodes, and the gate before the one."""
    site = folder / "gated"
    key = folder / "direct.key"
    make_node_key(key, openssh=True)
    keep.settle(place)
    with Control(place, register) as control:
        control.admit("direct", _pem(key))
        nodes = {node.name: node.node_id for node in control.nodes()}
    environment = {
        **os.environ,
        **SWITCHES,
        "FLWR_HOME": str(folder / "flower"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }

    def start(name: str, command: list[str]) -> "subprocess.Popen[bytes]":
        process = spawn(command, environment, folder / f"{name}.log")
        stack.callback(stop_process, process, 10.0)
        return process

    gate = start(
        "gate",
        [sys.executable, "-P", "-m", "clients.gate.run", "--site", str(site / join.SITE_FILE)],
    )
    supernode = str(Path(sys.executable).parent / "flower-supernode")
    ports = free_ports(2)
    common = [supernode, "--host", "127.0.0.1", "--port"]
    start("gated", [*common, str(ports[0]), "--insecure", "--superlink", listen])
    start(
        "direct",
        [
            *common, str(ports[1]), "--superlink", superlink.address(registers.read(place)),
            "--root-certificates", str(place.ca), "--auth-supernode-private-key", str(key),
        ],
    )  # fmt: skip
    return {name: nodes[name] for name in NAMES}, gate


def _pem(key: Path) -> str:
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes

    from clients.gate.node_key import read_node_key

    return public_key_to_bytes(read_node_key(key).public_key()).decode("ascii")


def _manifest(tensors: Mapping[str, Shape]) -> Manifest:
    listed = tuple(Tensor(name=n, dtype="float32", shape=shape) for n, shape in tensors.items())
    metrics = {"loss": Metric(kind="number", low=-10, high=10)}
    return Manifest(
        exchanges={"train.mim mim/mim": Exchange(down=listed, up=listed, metrics=metrics)}
    )

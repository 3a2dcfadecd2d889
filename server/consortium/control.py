"""What the operator asks of the SuperLink, over loopback: nodes and runs.

Flower's Control API has no authentication of its own: whoever has an account on this machine can
ask the same. The front never lets it out.
"""

import common.environment  # noqa: F401, I001 - before Flower

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

import httpx
from flwr.cli.cli_client_interceptor import CliClientHttpInterceptor
from flwr.common.constant import HEARTBEAT_PATIENCE
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from common.errors import InputError
from server.consortium.place import Place
from server.consortium.register import Register
from server.consortium.superlink import address


class SuperLinkAway(InputError):  # noqa: N818 - it may come back
    """The SuperLink does not answer, or with an error of its own: it may be starting, or busy."""


@dataclass(frozen=True)
class Node:
    """A node as the SuperLink sees it.

    Attributes:
        node_id: Its number.
        name: The site's.
        status: Flower's: "registered", "online", "offline", "unregistered".
        seen: When it was last heard of; of one that is offline it may be a minute later.
    """

    node_id: int
    name: str
    status: str
    seen: datetime | None = None


@dataclass(frozen=True)
class RunState:
    """A run as the SuperLink sees it.

    Attributes:
        run_id: Its number.
        status: "pending", "starting", "running", "finished".
        outcome: Of a finished run: "completed", "failed", "stopped".
        details: Flower's words on it.
        bundle: SHA-256 of the code.
    """

    run_id: int
    status: str
    outcome: str
    details: str
    bundle: str

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.status == "finished"


class Control:
    """The SuperLink's Control API; a context manager.

    Args:
        place: The consortium's folder.
        register: For the port.
    """

    def __init__(self, place: Place, register: Register) -> None:
        self.client = ControlHttpClient.from_server_address(
            address(register),
            insecure=False,
            root_certificates=place.ca.read_bytes(),
            interceptors=[
                CliClientHttpInterceptor(),
                RuntimeVersionHttpInterceptor(component_name="flwr CLI"),
            ],
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.client.close()
        if isinstance(error, httpx.TransportError):
            raise SuperLinkAway(
                "the SuperLink does not answer; `sonofed consortium status` says what runs"
            ) from error
        if isinstance(error, httpx.HTTPStatusError) and error.response.is_server_error:
            raise SuperLinkAway(
                f"the SuperLink answers with an error ({error.response.status_code}); see "
                "superlink.log in the consortium's logs"
            ) from error

    def admit(self, name: str, node_key: str) -> int:
        """Let a site's node take part, and no other under its name.

        Returns:
            Its number.
        """
        found = None
        for node in self._nodes():
            if node.status == "unregistered":
                continue
            if node.public_key == node_key.encode("ascii"):
                found = int(node.node_id)
            elif node.name == name:
                self.client.UnregisterNode(UnregisterNodeRequest(node_id=node.node_id))
        if found is not None:
            return found
        request = RegisterNodeRequest(public_key=node_key.encode("ascii"), name=name)
        return int(self.client.RegisterNode(request).node_id)

    def expel(self, node_key: str) -> None:
        """Have whoever holds a node key take part no longer."""
        for node in self._nodes():
            if node.public_key == node_key.encode("ascii") and node.status != "unregistered":
                self.client.UnregisterNode(UnregisterNodeRequest(node_id=node.node_id))

    def nodes(self) -> list[Node]:
        """All nodes."""
        return [Node(int(n.node_id), str(n.name), str(n.status), _seen(n)) for n in self._nodes()]

    def start(self, bundle: bytes, settings: Mapping[str, str | int]) -> int:
        """Start a run.

        Args:
            bundle: The code, as `build_fab_from_disk` makes it.
            settings: Over `[tool.flwr.app.config]`.

        Returns:
            The run's number.
        """
        fab = Fab(hashlib.sha256(bundle).hexdigest(), bundle, {})
        request = StartRunRequest(
            fab=fab_to_proto(fab), override_config=user_config_to_proto(dict(settings))
        )
        return int(self.client.StartRun(request).run_id)

    def stop(self, run_id: int) -> None:
        """Stop a run."""
        self.client.StopRun(StopRunRequest(run_id=run_id))

    def runs(self) -> list[RunState]:
        """All runs, the latest last."""
        listed = self.client.ListRuns(ListRunsRequest()).run_dict.values()
        found = sorted(listed, key=lambda run: str(run.pending_at))
        return [
            RunState(
                int(run.run_id), run.status.status, run.status.sub_status, run.status.details,
                run.fab_hash,
            )
            for run in found
        ]  # fmt: skip

    def run(self, run_id: int) -> RunState:
        """One run.

        Raises:
            InputError: If the SuperLink knows none of that number.
        """
        for found in self.runs():
            if found.run_id == run_id:
                return found
        raise InputError(f"{run_id}: the SuperLink knows no such run")

    def _nodes(self) -> list[NodeInfo]:
        return list(self.client.ListNodes(ListNodesRequest()).nodes_info)


def _seen(node: NodeInfo) -> datetime | None:
    """When a node was last heard of: Flower keeps until when its last heartbeat is good."""
    if node.status == "online":
        heard = node.online_until - HEARTBEAT_PATIENCE * node.heartbeat_interval
        return datetime.fromtimestamp(heard, UTC)
    return datetime.fromisoformat(node.last_deactivated_at) if node.last_deactivated_at else None

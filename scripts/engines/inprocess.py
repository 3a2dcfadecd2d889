"""A Flower grid in one process: the same ServerApp and ClientApp, no Ray, no ports.

A message is handled when its reply is asked for; with several jobs, in worker processes that get
and give serialised messages. This file alone touches Flower's internals (message ids and run ids
are set as the SuperLink would); a contract test holds it against the installed Flower.
"""

import common.environment  # noqa: F401, I001 - before Flower

import multiprocessing
import os
from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

from flwr.app import DEFAULT_TTL, Context, Message, Metadata, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.serverapp import Grid
from flwr.supercore.date import now
from flwr.supercore.run import Run

from clients.app import SITES_VARIABLE
from clients.app import app as client_app
from clients.site_list import read_sites
from server.app import app as server_app

RUN_ID = 1
SERVER_NODE = 1


class InProcessGrid(Grid):
    """Hands each message to the ClientApp of its site when its reply is pulled.

    Args:
        sites: Names; a site's node id is its place behind the server's.
        jobs: Worker processes; 1: everything here, in turn.
    """

    def __init__(self, sites: Iterable[str], jobs: int = 1) -> None:
        self.sites = {SERVER_NODE + 1 + place: name for place, name in enumerate(sites)}
        self.waiting: dict[str, Message] = {}
        self.running: dict[str, Future[bytes]] = {}
        self.count = 0
        self.pool = (
            ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) if jobs > 1 else None
        )
        self._run = Run.create_empty(RUN_ID)

    def set_run(self, run: Run) -> None:
        """Take over a run's description."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Build a message with the ids that a SuperLink would give it."""
        self.count += 1
        metadata = Metadata(
            run_id=RUN_ID,
            message_id=str(self.count),
            src_node_id=SERVER_NODE,
            dst_node_id=dst_node_id,
            reply_to_message_id="",
            group_id=group_id,
            created_at=now().timestamp(),
            ttl=ttl or DEFAULT_TTL,
            message_type=message_type,
        )
        return Message(metadata=metadata, content=content)

    def get_node_ids(self) -> Iterable[int]:
        """Ids of all sites."""
        return list(self.sites)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Keep the messages; with worker processes, start on them."""
        ids = []
        for message in messages:
            message_id = message.metadata.message_id
            if self.pool is None:
                self.waiting[message_id] = message
            else:
                site = self.sites[message.metadata.dst_node_id]
                self.running[message_id] = self.pool.submit(_work, site, _pack(message))
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Handle the messages (or wait for their worker) and give their replies."""
        for message_id in message_ids:
            if message_id in self.waiting:
                message = self.waiting.pop(message_id)
                yield _handle(self.sites[message.metadata.dst_node_id], message)
            elif message_id in self.running:
                yield _unpack(self.running.pop(message_id).result())

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push and pull; there is nothing to time out."""
        return list(self.pull_messages(self.push_messages(messages)))

    def close(self) -> None:
        """End the worker processes."""
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)


def run(folder: Path, sites_file: Path, jobs: int) -> None:
    """Run the study in a run folder.

    Args:
        folder: With its `study.json`.
        sites_file: Settings of all sites.
        jobs: Sites at work at the same time.
    """
    os.environ[SITES_VARIABLE] = str(sites_file)
    grid = InProcessGrid([site.name for site in read_sites(sites_file)], jobs)
    context = Context(
        run_id=RUN_ID,
        node_id=SERVER_NODE,
        node_config={},
        state=RecordDict(),
        run_config={"run": str(folder)},
    )
    try:
        server_app(grid, context)
    finally:
        grid.close()


def _handle(site: str, message: Message) -> Message:
    context = Context(
        run_id=RUN_ID,
        node_id=message.metadata.dst_node_id,
        node_config={"site": site},
        state=RecordDict(),
        run_config={},
    )
    return client_app(message, context)


def _pack(message: Message) -> bytes:
    return message_to_proto(message).SerializeToString()


def _unpack(data: bytes) -> Message:
    return message_from_proto(ProtoMessage.FromString(data))


def _work(site: str, data: bytes) -> bytes:
    return _pack(_handle(site, _unpack(data)))

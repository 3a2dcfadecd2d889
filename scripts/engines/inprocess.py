"""A Flower grid in one process: the same ServerApp and ClientApp, no Ray, no ports.

A message is handled when its reply is asked for; with several jobs, in worker processes that get
and give serialised messages. This file alone touches Flower's internals (ids are set as Flower's
own in-memory grid sets them); a contract test holds it against the installed Flower.
"""

import common.environment  # noqa: F401, I001 - before Flower

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from clients.app import SITES_VARIABLE
from clients.gated import app as client_app
from clients.site_list import read_sites
from server.app import app as server_app
from server.context import StudyStopped

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
        self.running: dict[str, tuple[str, str, Future[bytes]]] = {}
        self.count = 0
        self.strangers = set(multiprocessing.active_children())
        self.pool = make_pool(jobs) if jobs > 1 else None
        self._run = Run.create_empty(RUN_ID)
        # A new message takes its run and its sender from here.
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN_ID, SERVER_NODE, 1

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
        """Build a message; Flower asks for this method and advises against its use."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Ids of all sites."""
        return list(self.sites)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Give the messages their ids and keep them; with worker processes, start on them."""
        ids = []
        for message in messages:
            self.count += 1
            message_id = str(self.count)
            message.metadata.__dict__["_message_id"] = message_id
            if self.pool is None:
                self.waiting[message_id] = message
            else:
                site = self.sites[message.metadata.dst_node_id]
                stage = message.metadata.message_type.partition(".")[2]
                future = self.pool.submit(_work, site, _pack(message))
                self.running[message_id] = (site, stage, future)
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Handle the messages (or wait for their worker) and give their replies.

        Raises:
            StudyStopped: If a worker was killed.
        """
        for message_id in message_ids:
            if message_id in self.waiting:
                message = self.waiting.pop(message_id)
                yield _handle(self.sites[message.metadata.dst_node_id], message)
            elif message_id in self.running:
                yield _unpack(self._result(message_id))

    def _result(self, message_id: str) -> bytes:
        site, stage, future = self.running.pop(message_id)
        try:
            return future.result()
        except BrokenProcessPool:
            raise StudyStopped(
                f"{stage}, {site}: a worker process was ended from outside, most likely for want "
                "of memory; try fewer jobs, or a smaller [compute] micro_batch"
            ) from None

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push and pull; there is nothing to time out."""
        return list(self.pull_messages(self.push_messages(messages)))

    def close(self, *, at_once: bool = False) -> None:
        """End the worker processes, `at_once` in the middle of what they do."""
        if self.pool is None:
            return
        if at_once:
            for process in set(multiprocessing.active_children()) - self.strangers:
                process.kill()
        self.pool.shutdown(cancel_futures=True)


def make_pool(jobs: int) -> ProcessPoolExecutor:
    """Worker processes, forked from one that has imported everything once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    sites_file = os.environ.get(SITES_VARIABLE, "")
    return ProcessPoolExecutor(jobs, context, initializer=_begin_work, initargs=(sites_file,))


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
        run_config={"run": str(folder), "jobs": jobs},
    )
    try:
        server_app(grid, context)
    except BaseException:
        # Ctrl-C too: what a worker has begun would be asked again in any case.
        grid.close(at_once=True)
        raise
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


def _begin_work(sites_file: str) -> None:
    """Prepare a worker: the sites, no say in Ctrl-C, and no life after its parent's."""
    os.environ[SITES_VARIABLE] = sites_file
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _pack(message: Message) -> bytes:
    data: bytes = message_to_proto(message).SerializeToString()
    return data


def _unpack(data: bytes) -> Message:
    return message_from_proto(ProtoMessage.FromString(data))


def _work(site: str, data: bytes) -> bytes:
    return _pack(_handle(site, _unpack(data)))

"""What the gate must not forget: its node id, instructions, replies, and where each of them stands.

One folder, one gate. Every change is on the disk before anything follows from it, so a gate that is
killed goes on where it was.
"""

import fcntl
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Literal

from flwr.proto.fleet_pb2 import PullMessagesResponse, PushMessagesRequest
from flwr.proto.run_pb2 import Run
from pydantic import BaseModel, ConfigDict

from clients.gate.disk import Shelf, sync_path, write_whole
from clients.gate.objects import tree_ids
from common.errors import InputError

Step = Literal["fetching", "open", "judging", "leaving"]


class Standing(BaseModel):
    """Where an exchange stands.

    Attributes:
        number: Place in the order in which instructions came.
        step: fetching: its objects come in; open: it may be handed down and answered; judging: the
            reply is all here; leaving: what leaves is written down and on its way.
        came: The ledger's line of the instruction.
        down: Its id as it is handed down.
        handed: How often the SuperNode has taken it.
        confirmed: Whether the server was told that the instruction is all here, and forgets it.
        crashed: How often the site's code was killed at it.
        stored: Whether the server has asked for the reply's objects.
        given: Whether the last of them has been on its way.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    step: Step = "fetching"
    came: int = -1
    down: str = ""
    handed: int = 0
    confirmed: bool = False
    crashed: int = 0
    stored: bool = False
    given: bool = False


class Exchange:
    """One instruction and its reply, in a folder.

    Args:
        folder: Its own.
        standing: Where it stands.
    """

    def __init__(self, folder: Path, standing: Standing) -> None:
        self.folder = folder
        self.standing = standing
        self.asked = Shelf(folder / "asked")
        self.reply = Shelf(folder / "reply")

    @property
    def id(self) -> str:
        """The instruction's id at the server."""
        return self.folder.name

    def stand(self, **changes: object) -> None:
        """Change where it stands, on the disk first."""
        standing = self.standing.model_copy(update=changes)
        write_whole(self.folder / "standing.json", standing.model_dump_json().encode())
        self.standing = standing

    def whole(self) -> bool:
        """Whether nothing of the instruction went with the power before it was on the disk."""
        trees = (self.pulled(name).message_object_trees[0] for name in ("asked", "down"))
        return all(name in self.asked for tree in trees for name in tree_ids(tree))

    def write(self, name: str, message: PullMessagesResponse | PushMessagesRequest) -> None:
        """Keep a protobuf message: "asked", "down", "reply" or "out"."""
        content = message.SerializeToString(deterministic=True)
        write_whole(self.folder / f"{name}.pb", content)

    def pulled(self, name: str) -> PullMessagesResponse:
        """The instruction as it came ("asked") or as it is handed down ("down")."""
        found: PullMessagesResponse = PullMessagesResponse.FromString(
            (self.folder / f"{name}.pb").read_bytes()
        )
        return found

    def pushed(self, name: str) -> PushMessagesRequest | None:
        """The reply as it came ("reply") or as it leaves ("out"); None before."""
        path = self.folder / f"{name}.pb"
        return PushMessagesRequest.FromString(path.read_bytes()) if path.exists() else None

    def forget_reply(self) -> None:
        """Begin the reply anew."""
        (self.folder / "reply.pb").unlink(missing_ok=True)
        shutil.rmtree(self.reply.folder, ignore_errors=True)
        self.reply = Shelf(self.reply.folder)


class Spool:
    """All exchanges, and what lasts longer than one.

    Args:
        folder: The spool's; made where there is none, for its owner alone.

    Raises:
        InputError: If another gate has it, or it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            for place in (folder, folder / "exchanges", folder / "runs", folder / "bundles"):
                place.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = self._take_lock()
            self.exchanges = self._read()
        except OSError as error:
            raise InputError(f"{folder}: is no spool of a gate: {error.strerror}") from None

    def close(self) -> None:
        """Let go of it."""
        self._lock.close()

    def _take_lock(self) -> IO[bytes]:
        lock = open(self.folder / "lock", "ab")  # noqa: SIM115
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise InputError(f"{self.folder}: another gate runs on this spool") from None
        return lock

    def _read(self) -> dict[str, Exchange]:
        found = []
        for folder in (self.folder / "exchanges").iterdir():
            try:
                text = (folder / "standing.json").read_bytes()
            except FileNotFoundError:
                # Begun or taken away, and killed at it: nothing was said of it to anybody.
                shutil.rmtree(folder)
                continue
            exchange = Exchange(folder, Standing.model_validate_json(text))
            for shelf in (exchange.asked, exchange.reply):
                shelf.drop_unsound()
            step, confirmed = exchange.standing.step, exchange.standing.confirmed
            if step == "open" and not confirmed and not exchange.whole():
                # The server has it still.
                exchange.stand(step="fetching")
            found.append(exchange)
        found.sort(key=lambda exchange: exchange.standing.number)
        return {exchange.id: exchange for exchange in found}

    def begin(self, id_: str, asked: PullMessagesResponse) -> Exchange:
        """Keep an instruction that came."""
        number = 1 + max((e.standing.number for e in self.exchanges.values()), default=0)
        folder = self.folder / "exchanges" / id_
        folder.mkdir(mode=0o700, exist_ok=True)
        exchange = Exchange(folder, Standing(number=number))
        exchange.write("asked", asked)
        exchange.stand()
        sync_path(folder.parent)
        self.exchanges[id_] = exchange
        return exchange

    def end(self, exchange: Exchange) -> None:
        """It is over: nothing of it is kept but what the ledger says."""
        self.exchanges.pop(exchange.id, None)
        (exchange.folder / "standing.json").unlink(missing_ok=True)
        shutil.rmtree(exchange.folder, ignore_errors=True)

    @property
    def node_id(self) -> int | None:
        """The node's id at the server, once it is known."""
        try:
            return int(json.loads((self.folder / "node.json").read_bytes())["node_id"])
        except FileNotFoundError:
            return None

    @node_id.setter
    def node_id(self, value: int | None) -> None:
        if value is None:
            (self.folder / "node.json").unlink(missing_ok=True)
        else:
            write_whole(self.folder / "node.json", json.dumps({"node_id": value}).encode())

    def run(self, run_id: int) -> Run | None:
        """What is known of a run."""
        path = self.folder / "runs" / f"{run_id}.pb"
        return Run.FromString(path.read_bytes()) if path.exists() else None

    def keep_run(self, run: Run) -> None:
        """Keep what is known of a run; the oldest go."""
        content = run.SerializeToString(deterministic=True)
        write_whole(self.folder / "runs" / f"{run.run_id}.pb", content)
        _thin(self.folder / "runs", 100)

    def bundle(self, sha256: str) -> bytes | None:
        """A bundle that came."""
        path = self.bundle_path(sha256)
        return path.read_bytes() if path.exists() else None

    def bundle_path(self, sha256: str) -> Path:
        """Where a bundle that came lies, whether it was approved or not."""
        return self.folder / "bundles" / f"{sha256}.fab"

    def keep_bundle(self, sha256: str, content: bytes) -> None:
        """Keep a bundle, to run or to be looked at; the oldest go."""
        write_whole(self.bundle_path(sha256), content)
        _thin(self.folder / "bundles", 20)


def _thin(folder: Path, most: int) -> None:
    paths: Iterable[Path] = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime)
    for path in list(paths)[:-most]:
        path.unlink(missing_ok=True)

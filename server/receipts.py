"""The server's receipts: a signed line for each reply that came through a site's gate.

A receipt says which bytes came, as the server itself counted them, and goes back with the next
instruction. With it nobody at the site can later cut the end off the site's ledger.
"""

import re
from pathlib import Path
from types import TracebackType
from typing import Self

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from common.ledger import Ledger
from common.signing import make_key, read_key
from common.wire.digest import measure, message_bytes, message_digest
from common.wire.errors import PayloadError
from common.wire.gate import LEDGER, METRICS, RECEIPT, WEIGHTS

RECEIPTS_FILE, KEY_FILE = "receipts.jsonl", "receipts.key"
_HASH = re.compile(r"[0-9a-f]{64}")


class Receipts:
    """The receipts of one run.

    Args:
        folder: The run folder; `receipts.jsonl` and its key lie there.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / KEY_FILE
        key = read_key(path) if path.exists() else make_key(path)
        self.ledger = Ledger(folder / RECEIPTS_FILE, key, {"site": "server"})
        self.latest: dict[int, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.ledger.close()

    def attach(self, node: int, content: RecordDict) -> RecordDict:
        """The content of an instruction with the node's latest receipt, if it has one."""
        if node not in self.latest:
            return content
        receipt = ConfigRecord({"line": self.latest.pop(node)})
        return RecordDict({**{name: content[name] for name in content}, RECEIPT: receipt})

    def give(self, node: int, site: str, content: RecordDict, letter: ConfigRecord) -> None:
        """Write a receipt for a reply.

        Args:
            node: Who sent it.
            site: Its name, or what it is called before it has said its name.
            content: The reply without the gate's letter.
            letter: What the gate put beside it.

        Raises:
            PayloadError: If the letter is none.
        """
        key, sequence, head = read_letter(letter)
        arrays = content.array_records.get(WEIGHTS) or ArrayRecord()
        metrics = {
            name: value
            for name, value in dict(content.metric_records.get(METRICS, {})).items()
            if isinstance(value, (int, float))
        }
        tensors = [measure(name, array.data) for name, array in arrays.items()]
        line = self.ledger.append(
            {
                "kind": "receipt",
                "key": key,
                "site": site,
                "sequence": sequence,
                "head": head,
                "digest": message_digest(tensors, metrics),
                "bytes": message_bytes(tensors, metrics),
            }
        )
        self.latest[node] = line.raw.decode("ascii")


def read_letter(letter: ConfigRecord) -> tuple[str, int, str]:
    """Key, sequence and head in a gate's letter.

    Raises:
        PayloadError: If it holds anything else.
    """
    values = dict(letter)
    key, sequence, head = (values.get(name) for name in ("key", "sequence", "head"))
    hashes = isinstance(key, str) and isinstance(head, str)
    if (
        set(values) != {"key", "sequence", "head"}
        or not (hashes and _HASH.fullmatch(str(key)) and _HASH.fullmatch(str(head)))
        or not (type(sequence) is int and 0 <= sequence < 2**53)
    ):
        raise PayloadError(f"record {LEDGER}: is no letter of a gate")
    return str(key), int(str(sequence)), str(head)


def take_letter(content: RecordDict) -> ConfigRecord | None:
    """Take the gate's letter out of a reply; None where there is none."""
    if not isinstance(content.get(LEDGER), ConfigRecord):
        return None
    letter = content.config_records[LEDGER]
    del content[LEDGER]
    return letter

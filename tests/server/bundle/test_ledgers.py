"""The heads of the sites' ledgers, as a bundle carries them."""

import shutil
from pathlib import Path

import pytest

from common.bundle import files
from common.errors import InputError
from common.ledger_check import read
from common.signing import read_public_key
from server import receipts
from server.bundle import ledgers as module
from server.bundle.ledgers import ledger_heads
from tests.bundles import Carried


def test_each_head_is_a_line_of_that_site_s_own_ledger(carried: Carried) -> None:
    told = files.read_json(carried.bundle / files.FEDERATION)["ledgers"]
    assert list(told["sites"]) == ["ada", "bo"]
    for site, ledgers in told["sites"].items():
        (ledger,) = ledgers
        kept = read(carried.run / "sites" / site / "ledger.jsonl")
        lines = {line.sequence: line for line in kept}
        line = lines[ledger["sequence"]]
        assert line.hash == ledger["head"]
        assert line.event["kind"] == "reply"
        assert lines[0].event["key"] == ledger["key"]
        replies = [line for line in lines.values() if line.event["kind"] == "reply"]
        assert len(replies) == ledger["replies"]
        # Nothing that left after it is unaccounted for.
        assert max(line.sequence for line in replies) == ledger["sequence"]
    own = told["receipts"]
    last = list(read(carried.run / "receipts.jsonl"))[-1]
    assert (own["sequence"], own["head"]) == (last.sequence, last.hash)
    assert own["key"] == read_public_key(carried.run / "receipts.key.pub").hex()


def test_the_file_is_the_one_that_the_server_writes() -> None:
    assert module.RECEIPTS_FILE == receipts.RECEIPTS_FILE


def test_without_receipts_there_are_none(tmp_path: Path) -> None:
    assert ledger_heads(tmp_path) == {}


def test_receipts_that_were_changed_make_no_bundle(carried: Carried, tmp_path: Path) -> None:
    run = Path(shutil.copytree(carried.run, tmp_path / "run"))
    path = run / "receipts.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], *lines[3:]]))
    with pytest.raises(InputError, match=r"line 3: .*lines are gone.*are not as they were"):
        ledger_heads(run)

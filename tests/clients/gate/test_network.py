"""The gate sees for itself whether training is shut in, and its ledger says so."""

import os
import pwd
import socket
from pathlib import Path

from clients.gate.book import Book
from clients.gate.network import is_open, user_number
from common.ledger_check import read, verify


def test_a_socket_of_ones_own_network() -> None:
    # What an empty network's socket looks like: tests/clients/test_supernode.py.
    with socket.socket() as own:
        assert is_open(own)


def test_what_the_kernel_does_not_answer_is_not_taken_for_shut_in(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        closed = socket.socket(fileno=os.dup(other.fileno()))
        os.close(closed.fileno())
        assert is_open(closed)
        closed.detach()


def test_the_user_that_training_runs_as() -> None:
    assert user_number("") == os.getuid()
    assert user_number("nobody") == pwd.getpwnam("nobody").pw_uid


def test_the_ledger_says_it_where_it_is_new(tmp_path: Path) -> None:
    for is_open_ in (False, False, True, True, False):
        with Book(tmp_path, "west", "gate") as book:
            book.network(is_open=is_open_, uid=7)
    with Book(tmp_path, "west", "gate") as book:
        book.network(is_open=False, uid=8)
    ledger = tmp_path / "ledger.jsonl"
    assert verify(ledger).problem is None
    told = [line.event for line in read(ledger) if line.event["kind"] == "network"]
    assert [(event["open"], event["uid"]) for event in told] == [(0, 7), (1, 7), (0, 7), (0, 8)]

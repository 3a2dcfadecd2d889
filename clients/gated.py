"""The site's code behind its gate, in one process: what every engine of a simulation runs.

The same policy function and ledger as at a hospital's door. Here both are in the training's own
process, so it shows a researcher what a gate would say; it protects from nobody.
"""

import common.environment  # noqa: F401, I001 - before Flower

import logging
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from clients import app as site_app
from clients.exchanges import simulation_policy
from clients.gate.book import Book
from clients.gate.facts import InstructionFacts, RefusedError, ReplyFacts
from clients.gate.judging import TurnedAwayError, let_in, let_out, turn_away
from clients.gate.payload import (
    INSTRUCTION,
    read_instruction,
    read_reply,
    without_receipt,
    write_error,
    write_reply,
)
from clients.gate.policy import Policy
from clients.gate.policy_file import load_policy
from clients.settings import SiteSettings
from common.errors import InputError
from common.ledger import LedgerError
from common.wire.gate import REFUSED_INSTRUCTION, UNWRITTEN
from common.wire.records import ERROR_INPUT

WAIT_S = 60.0
"""For another worker process that writes the same site's ledger."""

log = logging.getLogger("sonofed.gate")
Run = Callable[[Message, Context], Message]
policy_of = lru_cache(maxsize=64)(simulation_policy)

NO_CODE = frozenset({""})
"""A simulation sends no code, so there is none to approve."""

_named: dict[Path, str] = {}
"""Ledger to the digest of the policy that it is known to name."""


@lru_cache(maxsize=64)
def own_policy(path: Path) -> Policy:
    """A hospital's own policy, as its gate would read it."""
    return load_policy(path, NO_CODE)


class GatedApp(ClientApp):
    """A ClientApp of which every message passes the gate."""

    def __call__(self, message: Message, context: Context) -> Message:
        """Judge the instruction, have the site's code answer it, judge the answer."""
        return answer(message, context, site_app.app)


def answer(message: Message, context: Context, run: Run) -> Message:
    """One message through the gate, both ways.

    Args:
        message: The instruction.
        context: Flower's, with the site's name or settings.
        run: The site's code.

    Returns:
        What leaves: the reply written anew, or a code.
    """
    try:
        site = site_app.settings_of(context)
    except InputError as error:
        log.error("%s", error)
        return write_error(message, ERROR_INPUT, "see the site's own log")
    try:
        return _answer(message, context, run, site)
    except (LedgerError, InputError) as error:
        log.error("%s: %s", site.name, error)
        return write_error(message, UNWRITTEN, "see the site's own log")


def _answer(message: Message, context: Context, run: Run, site: SiteSettings) -> Message:
    with _open(site) as book:
        try:
            asked = read_instruction(message)
        except RefusedError as error:
            return _refuse(book, message, "in", error.code, (error.words,))
        try:
            policy = _policy(message, site)
        except ValueError as error:
            words = (str(error),)
            return _refuse(book, message, "in", REFUSED_INSTRUCTION, words, asked)
        _name_policy(book, policy)
        below, receipt = without_receipt(message)
        try:
            came = let_in(book, policy, asked, receipt)
        except TurnedAwayError as away:
            return _told(book, message, away)
    # Training takes its time; the ledger is not held meanwhile.
    reply = run(below, context)
    with _open(site) as book:
        try:
            facts = read_reply(reply, below if policy.wants_update(asked.stage) else None)
        except RefusedError as error:
            return _refuse(book, below, "out", error.code, (error.words,), asked)
        return _let_out(book, site, below, reply, policy, asked, facts, came.sequence)


def _policy(message: Message, site: SiteSettings) -> Policy:
    """The hospital's own, or one that lets through all that the study says.

    Raises:
        InputError: If the hospital's is not readable.
        ValueError: If the study is not sound.
    """
    if site.policy is not None:
        return own_policy(site.policy)
    return policy_of(_text(message), site.name, site.own_parts)


def _name_policy(book: Book, policy: Policy) -> None:
    """Write down which policy is in force, where the ledger has named another or none."""
    path, digest = book.ledger.path, policy.file.digest
    if book.is_new or _named.get(path) != digest:
        told = book.find(("policy",))
        if told is None or told.event["digest"] != digest:
            book.policy(policy)
        _named[path] = digest


def _let_out(
    book: Book,
    site: SiteSettings,
    message: Message,
    reply: Message,
    policy: Policy,
    asked: InstructionFacts,
    facts: ReplyFacts,
    came: int,
) -> Message:
    # Adding up a day means reading the ledger; the simulation's own policy has no limit to hold.
    sent = book.sent_today() if site.policy is not None else 0
    try:
        line, facts = let_out(book, policy, asked, facts, came, sent_today=sent)
    except TurnedAwayError as away:
        return _told(book, message, away)
    return write_reply(reply, facts, message, book.letter(line))


def _refuse(
    book: Book,
    message: Message,
    way: str,
    code: int,
    why: tuple[str, ...],
    asked: InstructionFacts | None = None,
) -> Message:
    return _told(book, message, turn_away(book, way, code, why, asked))


def _told(book: Book, message: Message, away: TurnedAwayError) -> Message:
    log.error("%s: %s", book.ledger.path, away)
    return write_error(message, away.code, away.told)


def _open(site: SiteSettings) -> Book:
    return Book(site.folder, site.name, "simulation", WAIT_S)


def _text(message: Message) -> str:
    return str(message.content.config_records[INSTRUCTION]["study"])


app = GatedApp()

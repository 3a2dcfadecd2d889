"""What a verdict leads to, the same at a hospital's door and in a simulation: a line, or a refusal.

Nothing may follow from what passes before its line stands in the ledger.
"""

from collections.abc import Sequence

from clients.gate.book import Book
from clients.gate.buckets import bucketed
from clients.gate.cohort import held_back
from clients.gate.facts import InstructionFacts, ReplyFacts
from clients.gate.policy import Policy, judge
from common.ledger_format import Line
from common.wire.gate import REFUSED_INSTRUCTION


class TurnedAwayError(Exception):
    """A message that does not pass, after it was written down.

    Args:
        code: Of `common.wire.gate.GATE_ERRORS`: all that leaves, with the line's number.
        line: The ledger's.
        why: Each reason; they stay here.
    """

    def __init__(self, code: int, line: Line, why: Sequence[str]) -> None:
        self.code = code
        self.line = line
        self.why = tuple(why)
        super().__init__("; ".join(why))

    @property
    def told(self) -> str:
        """What the server reads beside the code."""
        return f"ledger line {self.line.sequence}"


def turn_away(
    book: Book,
    way: str,
    code: int,
    why: Sequence[str],
    asked: InstructionFacts | None = None,
    id_: str = "",
) -> TurnedAwayError:
    """Write a refusal down; see `Book.refused`."""
    return TurnedAwayError(code, book.refused(way, code, why, asked, id_), why)


def let_in(
    book: Book, policy: Policy, asked: InstructionFacts, receipt: str = "", id_: str = ""
) -> Line:
    """An instruction, judged and written down, the server's receipt before it.

    Raises:
        TurnedAwayError: If it does not pass, or its receipt is none for a line of this ledger.
        LedgerError: If it cannot be written down.
    """
    verdict = judge(policy, asked)
    if not verdict.passes:
        raise turn_away(book, "in", verdict.code, verdict.why, asked, id_)
    wrong = book.receipt_problem(receipt) if receipt else ""
    if wrong:
        raise turn_away(book, "in", REFUSED_INSTRUCTION, (wrong,), asked, id_)
    if receipt:
        book.receipt(receipt)
    return book.instruction(asked, id_)


def as_it_leaves(policy: Policy, asked: InstructionFacts, facts: ReplyFacts) -> ReplyFacts:
    """A reply that was let out, without what is of too few people, in the study's steps."""
    return bucketed(asked, held_back(policy.file.cohort, policy.exchange(asked), facts))


def let_out(
    book: Book,
    policy: Policy,
    asked: InstructionFacts,
    facts: ReplyFacts,
    came: int,
    *,
    sent_today: int,
) -> tuple[Line, ReplyFacts]:
    """A reply without figures of too few people, judged, in the study's steps, and written down.

    Args:
        book: The ledger.
        policy: The site's.
        asked: The instruction.
        facts: What would leave.
        came: The instruction's line.
        sent_today: Bytes that have left today.

    Returns:
        Its line, and what of it leaves.

    Raises:
        TurnedAwayError: If it does not pass.
        LedgerError: If it cannot be written down.
    """
    facts = held_back(policy.file.cohort, policy.exchange(asked), facts)
    verdict = judge(policy, asked, facts, sent_today=sent_today)
    if not verdict.passes:
        raise turn_away(book, "out", verdict.code, verdict.why, asked)
    facts = as_it_leaves(policy, asked, facts)
    return book.reply(asked, facts, came), facts

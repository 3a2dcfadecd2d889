"""What was recorded on the wire against what the sites' ledgers say, message by message."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from common.ledger_check import read, verify
from scripts.audit.capture import Account


@dataclass
class SiteAccount:
    """One site's ledger against the wire.

    Attributes:
        site: Its name.
        replies: Lines that say that a reply left.
        bytes: What they add up to.
        wire_bytes: What was recorded of this site's replies, counted anew.
        codes: Lines that say that a code left.
        given_up: Replies of which the server did not take all, as the ledger says.
        confirmed: Replies that the server signed for.
        problems: Whatever does not fit.
    """

    site: str
    replies: int = 0
    bytes: int = 0
    wire_bytes: int = 0
    codes: int = 0
    given_up: int = 0
    confirmed: int = 0
    problems: list[str] = field(default_factory=list)


def reconcile(
    account: Account, ledgers: Mapping[str, Path], receipts: Path | None
) -> list[SiteAccount]:
    """Each site's ledger, verified, and held against the messages on the wire.

    Args:
        account: Of the recording.
        ledgers: By site.
        receipts: The server's.

    Returns:
        One account a site. Messages of no site's are problems of the recording's account.
    """
    by_key: dict[str, SiteAccount] = {}
    found = []
    errors = 0
    for site, path in ledgers.items():
        one = SiteAccount(site)
        found.append(one)
        verdict = verify(path, None, receipts)
        by_key[verdict.key] = one
        if verdict.problem is not None:
            one.problems.append(str(verdict.problem))
        sent = {item.sequence: item for item in account.sent if item.key == verdict.key}
        never = {
            line.event["instruction"] for line in read(path) if line.event["kind"] == "undelivered"
        }
        for line in read(path):
            event = line.event
            if event["kind"] == "reply":
                one.replies += 1
                one.bytes += int(event["bytes"])
                item = sent.pop(line.sequence, None)
                if item is None and event["instruction"] in never:
                    one.given_up += 1
                    continue
                if item is None:
                    one.problems.append(f"line {line.sequence}: its reply is not on the wire")
                    continue
                one.wire_bytes += item.bytes
                told = (line.hash, event["digest"], event["bytes"])
                if (item.head, item.digest, item.bytes) != told:
                    one.problems.append(f"line {line.sequence}: something else is on the wire")
            elif event["kind"] in ("error", "refused"):
                one.codes += 1
                errors += 1
            elif event["kind"] == "receipt":
                one.confirmed += 1
        one.problems += [f"line {n}: a reply on the wire that it does not know" for n in sent]
    # What broke off and was never taken up again is on the wire in part, and in a ledger as such.
    if len(account.unfinished) > sum(one.given_up for one in found):
        account.problems += account.unfinished
    unknown = [item for item in account.sent if not item.error and item.key not in by_key]
    if unknown:
        account.problems.append(f"{len(unknown)} message(s) on the wire are in no site's ledger")
    codes = sum(1 for item in account.sent if item.error)
    if codes != errors:
        account.problems.append(f"{codes} codes on the wire, {errors} in the ledgers")
    if receipts is not None:
        confirmed = [
            line.event["key"] for line in read(receipts) if line.event["kind"] == "receipt"
        ]
        for key, one in by_key.items():
            one.confirmed = confirmed.count(key)
    return found

"""Reading a ledger, and the proof that nothing in it was changed, removed or cut off.

`verify` says the first thing that is wrong, and what it could not see with what it was given.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import InputError
from common.ledger import head_path, segments
from common.ledger_format import (
    FORMAT,
    LONGEST_LINE,
    NOTHING,
    Event,
    Line,
    read_head,
    read_line,
    time_back,
)

NO_RECEIPTS = (
    "without the server's receipts this cannot see lines cut off the end together with their head "
    "file"
)


@dataclass(frozen=True)
class Problem:
    """The first bad line: its file, its number there (from 1; 0: the whole file), what is wrong."""

    file: Path
    number: int
    words: str

    def __str__(self) -> str:
        place = f"{self.file}, line {self.number}" if self.number else str(self.file)
        return f"{place}: {self.words}"


@dataclass
class Verdict:
    """What `verify` found.

    Attributes:
        lines: Lines that are sound, up to the first bad one.
        files: Files that were read.
        head: Hash of the last sound line.
        key: The public key (hex) that signed.
        site: The name in the opening line.
        whole: Whether the ledger by itself is sound to its end.
        problem: The first thing that is wrong, or None.
        notes: What could not be seen, and what happened to the ledger without harm.
    """

    lines: int = 0
    files: int = 0
    head: str = NOTHING
    key: str = ""
    site: str = ""
    whole: bool = False
    problem: Problem | None = None
    notes: list[str] = field(default_factory=list)


def files_of(path: Path) -> list[Path]:
    """All files of a ledger, oldest first.

    Raises:
        InputError: If there is none.
    """
    files = [*segments(path), *([path] if path.exists() else [])]
    if not files:
        raise InputError(f"{path}: no such ledger")
    return files


def raw_lines(path: Path) -> Iterator[tuple[bytes, bool]]:
    """Each line of a file without its line feed, and whether it had one."""
    with open(path, "rb") as file:
        while raw := file.readline(LONGEST_LINE + 2):
            yield raw.removesuffix(b"\n"), raw.endswith(b"\n")


def read(path: Path) -> Iterator[Line]:
    """The readable lines of a ledger, all files, signatures unlooked at: for showing.

    Raises:
        InputError: If there is no ledger, or naming the first line that is not readable.
    """
    for file in files_of(path):
        for number, (raw, ended) in enumerate(raw_lines(file), 1):
            if not ended:
                return
            try:
                yield read_line(raw, None)
            except ValueError as error:
                raise InputError(f"{file}, line {number}: {error}") from None


def verify(
    path: Path,
    key: bytes | None = None,
    receipts: Path | Sequence[Path] | None = None,
    receipts_key: bytes | None = None,
) -> Verdict:
    """Check chain, signatures, order, head file, and what the server says that it received.

    Args:
        path: The ledger, such as ledger.jsonl; its closed files beside it are read too.
        key: The site's public key. Without it the one in the opening line is taken, and a note
            says what that is worth.
        receipts: The server's ledger of receipts, or those of all the runs that the site was in.
        receipts_key: The server's public key; else the one in those ledgers' opening lines.

    Raises:
        InputError: If there is nothing to read.
    """
    verdict = Verdict()
    checker = _Checker(path, key, verdict)
    for place in files_of(path):
        verdict.files += 1
        if not checker.file(place):
            break
    if verdict.problem is None:
        checker.end()
    verdict.whole = verdict.problem is None
    if verdict.whole and receipts is not None:
        files = [receipts] if isinstance(receipts, Path) else list(receipts)
        _against_receipts(checker, files, receipts_key, verdict)
    elif receipts is None:
        verdict.notes.append(NO_RECEIPTS)
    return verdict


class _Checker:
    """Goes through the lines in order; keeps of each only what receipts are held against."""

    def __init__(self, path: Path, key: bytes | None, verdict: Verdict) -> None:
        self.path = path
        self.key = key
        self.verdict = verdict
        self.last: Line | None = None
        self.place = (path, 0)
        self.replies: dict[int, tuple[str, object, object]] = {}
        self.asked: dict[int, int] = {}
        self.undelivered: set[int] = set()
        self.receipts: dict[str, tuple[Path, int]] = {}
        self.head: tuple[int, str] | None = None
        self.head_seen = False

    def file(self, path: Path) -> bool:
        """Check one file; False at the first bad line."""
        number = 0
        for number, (raw, ended) in enumerate(raw_lines(path), 1):
            self.place = (path, number)
            if not ended:
                self.verdict.notes.append(
                    f"{path}, line {number}: is cut off in its middle; a writer that was stopped "
                    "leaves that, and the next one mends it"
                )
                break
            try:
                self._line(raw, number)
            except ValueError as error:
                return self._bad(path, number, str(error))
        closed = path != self.path
        if closed and (self.last is None or self.last.event["kind"] != "rotated"):
            return self._bad(path, number, "its file ends without being closed: lines are gone")
        return True

    def _bad(self, path: Path, number: int, words: str) -> bool:
        self.verdict.problem = Problem(path, number, words)
        return False

    def _line(self, raw: bytes, number: int) -> None:
        if self.last is None:
            self._first(raw)
        line = read_line(raw, self.key)
        before = self.last
        expected = before.sequence + 1 if before else 0
        if line.sequence != expected:
            raise ValueError(f"has sequence {line.sequence}, expected {expected}: lines are gone")
        if line.previous != (before.hash if before else NOTHING):
            raise ValueError("does not follow from the line before it")
        if number == 1:
            self._opening(line, before)
        back = time_back(before.time if before else line.time, line.time)
        if line.event.get("clock_back_us", 0) != back:
            raise ValueError("its time is before that of the line above, and it does not say so")
        if back:
            self.verdict.notes.append(f"{self._where()}: the clock was set back {back / 1e6:.3f} s")
        if line.event["kind"] == "recovered":
            self._recovered(line)
        if line.event["kind"] == "reply":
            told = (line.hash, line.event.get("digest"), line.event.get("bytes"))
            self.replies[line.sequence] = told
            self.asked[line.sequence] = _whole(line.event, "instruction")
        if line.event["kind"] == "undelivered":
            self.undelivered.add(_whole(line.event, "instruction"))
        if line.event["kind"] == "receipt" and "line" in line.event:
            self._receipt(str(line.event["line"]))
        if self.head and self.head[0] == line.sequence:
            self.head_seen = True
            if self.head[1] != line.hash:
                raise ValueError("is not the line that the head file knows")
        self.last = line
        self.verdict.lines, self.verdict.head = self.verdict.lines + 1, line.hash

    def _first(self, raw: bytes) -> None:
        line = read_line(raw, None)
        if line.event["kind"] != "opened":
            raise ValueError("is the first, but does not open a ledger: earlier files are gone")
        told = str(line.event.get("key"))
        if self.key is None:
            self.key = bytes.fromhex(told)
            self.verdict.notes.append(
                "the key was taken from the ledger itself: give --key to be sure whose it is"
            )
        if told != self.key.hex():
            raise ValueError("was opened with another key")
        self.verdict.key, self.verdict.site = told, str(line.event.get("site", ""))
        path = head_path(self.path)
        if not path.exists():
            self.verdict.notes.append(f"{path} is not there: a cut end cannot be seen against it")
            return
        try:
            self.head = read_head(path, self.key)
        except ValueError as error:
            raise ValueError(f"the head file is not sound: {error}") from None

    def _opening(self, line: Line, before: Line | None) -> None:
        wanted = "continued" if before else "opened"
        if line.event["kind"] != wanted or line.event.get("format") != FORMAT:
            raise ValueError(f"is the first of its file, but does not say {wanted}, {FORMAT}")
        if line.event.get("key") != self.verdict.key:
            raise ValueError("names another key")

    def _recovered(self, line: Line) -> None:
        missing = line.event.get("lines_missing")
        if missing != 0:
            raise ValueError(
                f"{missing} line(s) before it were cut off: the head file of that day knew them"
            )
        if line.event.get("fragment_bytes"):
            self.verdict.notes.append(
                f"{self._where()}: a line that was cut in its middle was taken away; "
                "what it spoke of had not left"
            )
        else:
            self.verdict.notes.append(f"{self._where()}: the head file had been taken away")

    def _receipt(self, raw: str) -> None:
        """A receipt in the ledger itself; whose signature it bears is not looked at."""
        try:
            event = read_line(raw.encode("ascii"), None).event
        except ValueError:
            raise ValueError("holds no receipt") from None
        told = (event.get("head"), event.get("digest"), event.get("bytes"))
        sequence = _whole(event, "sequence")
        if event.get("key") != self.verdict.key or self.replies.get(sequence) != told:
            raise ValueError(f"the server's receipt for line {sequence} says something else")
        self.receipts[raw] = self.place

    def _where(self) -> str:
        return f"{self.place[0]}, line {self.place[1]}"

    def end(self) -> None:
        """After the last line: what the head file knows beyond it."""
        last = self.last.sequence if self.last else -1
        path, number = self.place
        if self.last is None:
            self._bad(path, number, "holds no line")
        elif self.head and self.head[0] > last:
            gone = self.head[0] - last
            self._bad(path, number + 1, f"{gone} line(s) are cut off: the head file knows them")


def _against_receipts(
    checker: _Checker, receipts: Sequence[Path], key: bytes | None, verdict: Verdict
) -> None:
    """Every receipt must be for a line of this ledger, with its digest and bytes.

    Those that the ledger itself holds must be the server's, and a ledger with replies must have one
    that the server confirms: else these receipts are those of something else, or the ledger is.
    """
    if key is None:
        verdict.notes.append(
            "the server's key was taken from its receipts: give --server-key to be sure whose it is"
        )
    confirmed: set[int] = set()
    for file in receipts:
        theirs = verify(file, key)
        verdict.problem = theirs.problem or _confirm(checker, file, verdict, confirmed)
        if verdict.problem is not None:
            return
    open_ = set(checker.replies) - confirmed
    never = {line for line in open_ if checker.asked[line] in checker.undelivered}
    if open_ - never and not confirmed:
        words = f"these receipts speak of none of the {len(open_)} replies in this ledger"
        verdict.problem = Problem(checker.path, 0, words)
        return
    for file, number in checker.receipts.values():
        verdict.problem = Problem(file, number, "holds a receipt that the server has not written")
        return
    verdict.notes.append(f"the server confirms {len(confirmed)} replies, byte for byte")
    if never:
        verdict.notes.append(f"{len(never)} replies the server never took, as the ledger says")
    if open_ - never:
        verdict.notes.append(
            f"{len(open_ - never)} replies have no receipt: they may never have arrived"
        )


def _confirm(
    checker: _Checker, receipts: Path, verdict: Verdict, confirmed: set[int]
) -> Problem | None:
    """Hold one file of receipts against the ledger; what it confirms is noted."""
    for line in read(receipts):
        event = line.event
        if event["kind"] != "receipt":
            continue
        sequence = _whole(event, "sequence")
        told = (event.get("head"), event.get("digest"), event.get("bytes"))
        words = ""
        if event.get("key") != verdict.key:
            # Nothing in a ledger can say that its site has another key now.
            if not verdict.site or event.get("site") != verdict.site:
                continue
            words = (
                f"the server received a reply of {verdict.site} from a ledger with another key "
                f"({str(event.get('key'))[:16]}...): this is not that one, or not the only one"
            )
        elif sequence not in checker.replies:
            words = f"the server received a reply of line {sequence}, which is not in the ledger"
        elif checker.replies[sequence] != told:
            words = f"the server received something else than line {sequence} says"
        if words:
            return Problem(receipts, line.sequence + 1, words)
        checker.receipts.pop(line.raw.decode("ascii"), None)
        confirmed.add(sequence)
    return None


def _whole(event: Event, name: str) -> int:
    """A field that should be a line's number; -1 where it is none."""
    value = event.get(name)
    return value if type(value) is int else -1

"""Which word counts where several readers have spoken: the rule.

1. A reader's word on an image is the last one that the reader said and has not taken back.
2. What somebody has decided, with all words in sight, counts; of several decisions the last.
3. Else nothing counts until as many readers have spoken as the site asks for (one, if it asks for
   no number).
4. Then the word of more than half of the readers counts. Where there is none, they disagree, and
   nothing counts until one decides, one changes their mind, or a further reader tips the scale.

Two outlines say the same where they overlap by a Dice of .8 or more in every class; of the outlines
that say the same, the one that most agree with counts, of equal ones the latest. The manifest's own
labels, which play the experts in a simulation, count only where no reader has spoken.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from clients.tables import write_bytes
from clients.words import PLAYED, Decision, Label, Outline, moment, read_outline_file
from common.errors import InputError

RULES = "reading.json"
AGREE_DICE = 0.8
"""From here on two outlines say the same."""

State = Literal["open", "waiting", "agreed", "disputed", "decided"]
Said = TypeVar("Said", Label, Outline)
Words = dict[str, dict[str, Said]]
"""Image to reader to the word that stands."""


class Rules(BaseModel):
    """How a site has its images read; its own affair, and it stays in its folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    readers: int = Field(default=1, ge=1, le=9, description="Readers who must have spoken.")
    outlines: bool = Field(
        default=False, description="Whether a label counts only once its image is outlined too."
    )


@dataclass(frozen=True)
class Settled:
    """How the readers stand on one image.

    Attributes:
        state: "open" (nobody has spoken), "waiting" (for further readers), "agreed", "disputed",
            or "decided".
        word: What counts; empty where nothing does.
        readers: Who has spoken, each with their word.
    """

    state: State
    word: str = ""
    readers: Mapping[str, str] = field(default_factory=dict)


def read_rules(site_folder: Path) -> Rules:
    """The site's rules; those of a site that has set none.

    Raises:
        InputError: If the file is not as it was written.
    """
    path = site_folder / RULES
    if not path.exists():
        return Rules()
    try:
        return Rules.model_validate_json(path.read_bytes())
    except ValidationError as error:
        problems = [f"{path}: {e['loc'][0] if e['loc'] else 'file'}: {e['msg']}"
                    for e in error.errors()]  # fmt: skip
        raise InputError(problems) from None


def write_rules(site_folder: Path, rules: Rules) -> None:
    """Set the site's rules."""
    write_bytes(site_folder / RULES, (json.dumps(rules.model_dump(), indent=1) + "\n").encode())


def words_of(lines: Iterable[Said]) -> Words[Said]:
    """Image to reader to the word that stands: the latest by time, of equal times the last line."""
    found: Words[Said] = {}
    for line in lines:
        of_image = found.setdefault(line.id, {})
        known = of_image.get(line.reader)
        if known is None or moment(line) >= moment(known):
            of_image[line.reader] = line
    taken_back = [
        (id_, reader) for id_, said in found.items() for reader in said if not _word(said[reader])
    ]
    for id_, reader in taken_back:
        del found[id_][reader]
        if not found[id_]:
            del found[id_]
    return found


def decided(decisions: Iterable[Decision], what: str) -> dict[str, str]:
    """Image to what was decided of its label, or of its outline."""
    found: dict[str, Decision] = {}
    for line in decisions:
        known = found.get(line.id)
        if line.what == what and (known is None or moment(line) >= moment(known)):
            found[line.id] = line
    return {id_: line.word for id_, line in found.items() if line.word}


def settle_label(words: Mapping[str, Label], decision: str, rules: Rules) -> Settled:
    """How the readers stand on an image's label.

    Args:
        words: Reader to the label that stands.
        decision: The label that was decided; empty for none.
        rules: Of the site.
    """
    real = {reader: line for reader, line in words.items() if reader != PLAYED}
    said = {reader: line.label for reader, line in (real or words).items()}
    if decision:
        return Settled("decided", decision, said)
    if not said:
        return Settled("open")
    if real and len(real) < rules.readers:
        return Settled("waiting", "", said)
    word, count = Counter(said.values()).most_common(1)[0]
    if 2 * count > len(said):
        return Settled("agreed", word, said)
    return Settled("disputed", "", said)


def settle_outline(
    words: Mapping[str, Outline], decision: str, rules: Rules, site_folder: Path
) -> Settled:
    """How the readers stand on an image's outline; masks are opened only where several drew.

    Args:
        words: Reader to the outline that stands.
        decision: The outline that was decided; empty for none.
        rules: Of the site.
        site_folder: Where the masks lie.
    """
    said = {reader: line.outline for reader, line in words.items()}
    if decision:
        return Settled("decided", decision, said)
    if not said:
        return Settled("open")
    if len(said) < rules.readers:
        return Settled("waiting", "", said)
    best, support = "", (0.0, 0.0)
    for line in words.values():
        alike = sum(
            outline_dice(site_folder, line.outline, other) >= AGREE_DICE for other in said.values()
        )
        if (alike, moment(line).timestamp()) > support:
            best, support = line.outline, (alike, moment(line).timestamp())
    if 2 * support[0] > len(said):
        return Settled("agreed", best, said)
    return Settled("disputed", "", said)


def outline_dice(site_folder: Path, one: str, other: str) -> float:
    """Dice of two kept masks, of the class that agrees least; 1 where both are empty."""
    if one == other:
        return 1.0
    return _dice(site_folder, *sorted((one, other)))


@lru_cache(maxsize=4096)  # the masks' names are their content
def _dice(site_folder: Path, one: str, other: str) -> float:
    return dice_of(read_outline_file(site_folder, one), read_outline_file(site_folder, other))


def dice_of(a_HW: NDArray[np.uint8], b_HW: NDArray[np.uint8]) -> float:
    """Dice of two planes of class numbers, of the class that agrees least."""
    if a_HW.shape != b_HW.shape:
        return 0.0
    found = [1.0]
    for number in np.union1d(a_HW, b_HW):
        if number:
            a, b = a_HW == number, b_HW == number
            found.append(2 * int((a & b).sum()) / (int(a.sum()) + int(b.sum())))
    return min(found)


def _word(line: Label | Outline) -> str:
    return line.label if isinstance(line, Label) else line.outline


def settled_labels(
    words: Words[Label], decisions: Sequence[Decision], rules: Rules
) -> dict[str, Settled]:
    """How the readers stand on the label of each image that anybody spoke of."""
    decision = decided(decisions, "label")
    return {
        id_: settle_label(words.get(id_, {}), decision.get(id_, ""), rules)
        for id_ in dict.fromkeys((*words, *decision))
    }


def settled_outlines(
    site_folder: Path, words: Words[Outline], decisions: Sequence[Decision], rules: Rules
) -> dict[str, Settled]:
    """How the readers stand on the outline of each image that anybody outlined."""
    decision = decided(decisions, "outline")
    return {
        id_: settle_outline(words.get(id_, {}), decision.get(id_, ""), rules, site_folder)
        for id_ in dict.fromkeys((*words, *decision))
    }

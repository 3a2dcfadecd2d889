"""Words that others wrote (a bundle's files, a ledger's fields), shown on a terminal as they are.

A terminal obeys control characters, and an eye is led astray by what has no width or turns the
direction of reading: all of these are shown as escapes. Nothing is taken for rich's markup.
"""

from rich.text import Text

from scripts.live import console

UNSEEN = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
    + "".join(map(chr, (*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))
)
"""Fillers and variation selectors: letters and marks by their class, and nothing to be seen."""


def visible(words: object) -> str:
    r"""The same words, with an escape for each character that is not seen where it stands.

    That is what Python does not hold for printable (controls C0 and C1, spaces but the one, line
    separators, direction marks, zero widths, lone surrogates), and fillers.

    Args:
        words: Anything; its text is shown, such as `\x1b[2K` for what clears a line.
    """
    text = str(words)
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(letter) for letter in text)


def _shown(letter: str) -> str:
    if letter.isprintable() and letter not in UNSEEN:
        return letter
    return letter.encode("unicode_escape").decode("ascii")


def cell(words: object) -> Text:
    """Foreign words as a cell of a table."""
    return Text(visible(words))


def tell(line: object) -> None:
    """Print one line that holds foreign words; neither markup nor emoji codes are read in it."""
    console.print(cell(line))


__all__ = ["cell", "tell", "visible"]

"""One thing that was looked at before a site takes part."""

from dataclasses import dataclass
from typing import Literal

Standing = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: The thing.
        standing: ok: as it should be; warn: it will do, for now; fail: the site cannot take part.
        words: What was found.
        remedy: What to do; empty where nothing is to be done.
    """

    what: str
    standing: Standing
    words: str
    remedy: str = ""

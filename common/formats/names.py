"""Words that both kinds of file use."""

from typing import Literal

Role = Literal["source", "target"]
Unit = Literal["patient", "group", "image"]

"""The errors that a person caused and can mend."""

from collections.abc import Sequence


class InputError(Exception):
    """What somebody gave (a file, a key, an option) is wrong.

    Args:
        problems: One plain sentence each, naming the file, row, key or site. All that were found,
            not only the first. The command prints them one a line and exits with code 2.
    """

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))

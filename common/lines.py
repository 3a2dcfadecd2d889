"""JSON lines that grow while something runs, and may be cut short by a kill."""

import json
from collections.abc import Mapping
from pathlib import Path


def append_line(path: Path, fields: Mapping[str, object]) -> None:
    """Append one JSON object as a line, complete when this returns.

    A line that a kill has cut short is taken away first: its event is told again.

    Args:
        path: The file; it and its folder are made where they are missing.
        fields: What the line says.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(fields) + "\n"
    with path.open("ab+") as file:
        end = file.seek(0, 2)
        if end:
            file.seek(end - 1)
            if file.read(1) != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        file.write(line.encode())

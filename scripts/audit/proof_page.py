"""The page of `sonofed audit prove`: one file, no network, no script, and fit for a print."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import page
from scripts.audit.connections import Connection
from scripts.audit.page import TEMPLATES
from scripts.audit.proof import Proof

SHOWN = 4
"""Addresses of one program that are told singly."""


def write_page(proof: Proof, path: Path) -> None:
    """Write the page in one move.

    Args:
        proof: What was found.
        path: Where it goes.
    """
    template = page.environment(TEMPLATES).get_template("proof.html.md")
    text = template.render(
        proof=proof,
        failed=[check for check in proof.checks if check.state == "FAILED"],
        programs=list(programs(proof.connections)),
        calls=_calls(proof),
        total=round(sum(proof.seconds.values())),
    )
    beside = path.with_name(path.name + ".new")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def programs(found: list[tuple[Connection, str]]) -> Iterator[dict[str, Any]]:
    """Connections by program: what it dialled, what it opened, what led out."""
    by_program: dict[str, list[tuple[Connection, str]]] = {}
    for one, name in found:
        by_program.setdefault(one.program or "(not known)", []).append((one, name))
    for program, listed in sorted(by_program.items()):
        yield {
            "program": program,
            "dialled": _told([pair for pair in listed if pair[0].call != "bind"]),
            "opened": _told([pair for pair in listed if pair[0].call == "bind"]),
            "out": [f"{one.call} {one.address} ({one.result})" for one, _ in listed
                    if one.leads_out or one.listens_out],
        }  # fmt: skip


def _told(listed: list[tuple[Connection, str]]) -> str:
    """Known addresses by name, others by their kind and number."""
    named = dict.fromkeys(name for _, name in listed if name)
    loopback = {one.address for one, name in listed if not name and one.family in ("IPv4", "IPv6")
                and one.is_local}  # fmt: skip
    files = {one.address for one, _ in listed if one.family == "unix"}
    parts = list(named)
    if loopback:
        parts.append(", ".join(sorted(loopback)) if len(loopback) <= SHOWN
                     else page.count(len(loopback), "loopback port"))  # fmt: skip
    if files:
        parts.append(page.count(len(files), "local socket"))
    return ", ".join(parts)


def _calls(proof: Proof) -> list[dict[str, Any]]:
    """Requests and bytes by call, largest first."""
    account = proof.account
    if account is None:
        return []
    return [
        {"call": call, "requests": account.requests[call], "bytes": size}
        for call, size in sorted(account.bodies.items(), key=lambda item: -item[1])
    ]

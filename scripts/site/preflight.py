"""`sonofed site check`: whether this site can take part, and what to do where it cannot."""

from collections.abc import Iterable, Iterator
from itertools import chain

import typer
from rich.markup import escape
from rich.table import Table

from clients.finding import Finding
from clients.preflight import preflight
from clients.reach import reach
from clients.site_file import SiteFile
from scripts.live import say, show

MARKS = {"ok": "[green]ok[/]", "warn": "[yellow]look[/]", "fail": "[red]NO[/]"}


def look(site: SiteFile, more: Iterable[Finding] = ()) -> None:
    """Show each finding; exit code 1 where one of them keeps the site out.

    Args:
        site: The site's file.
        more: Further findings.
    """
    _end(list(_shown(site.site.name, chain(preflight(site), more))))


def firewall(site: SiteFile) -> None:
    """Say what to ask the network's keepers for, and whether it is there already."""
    address, proxy = site.upstream.address, site.upstream.proxy
    say(f"outbound: this machine to {proxy or address}, TCP, TLS inside, long connections")
    if proxy:
        say(f"          the proxy {proxy} must allow CONNECT to {address}")
    say("inbound:  nothing")
    say("to break TLS open on the way (inspection) ends the connection: exempt the address")
    _end(list(_shown(site.site.name, reach(site))))


def _shown(name: str, findings: Iterator[Finding]) -> Iterator[Finding]:
    table = Table("", name, "found", "what to do", show_edge=False, pad_edge=False)
    for finding in findings:
        told = [escape(text) for text in (finding.what, finding.words, finding.remedy)]
        table.add_row(MARKS[finding.standing], *told)
        yield finding
    show(table)


def _end(findings: list[Finding]) -> None:
    if any(finding.standing == "fail" for finding in findings):
        raise typer.Exit(1)

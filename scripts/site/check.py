"""`sonofed site check`: whether this site can take part, and whether its gate holds."""

from pathlib import Path
from typing import Annotated

import typer

from clients.site_file import load_site
from scripts.audit.egress import check_egress
from scripts.site.preflight import firewall as show_firewall
from scripts.site.preflight import look
from scripts.site.study import against


def check(
    site: Annotated[
        Path, typer.Option("--site", metavar="SITE.toml", help="The site's own file.")
    ] = Path("site/site.toml"),
    firewall: Annotated[
        bool, typer.Option("--firewall", help="Only what to ask the network's keepers for.")
    ] = False,
    egress: Annotated[
        bool,
        typer.Option(
            "--egress",
            help="Try the gate: every known trick through this site's gate with this site's "
            "policy, to a sink on this machine; the result is signed into the ledger.",
        ),
    ] = False,
    study: Annotated[
        Path | None,
        typer.Option(
            "--study",
            metavar="STUDY.toml",
            help="Hold the policy and the invitation against this study too; --set as it will run.",
        ),
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", help="key=value over the study; repeatable.")
    ] = None,
) -> None:
    """Look at everything that taking part needs, and say what to do where something is missing.

    Data, policy, versions, keys, certificates, disk, memory, GPU, the empty network, the way to the
    server and the clock. One request without a body goes to the consortium's address; nothing else
    leaves. Exit code 1 where the site could not take part.
    """
    found = load_site(site)
    if firewall:
        show_firewall(found)
    elif egress:
        check_egress(found)
    else:
        look(found, against(found, study, override or []) if study else ())

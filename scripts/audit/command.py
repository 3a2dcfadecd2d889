"""`sonofed audit`: what a ledger says, and whether it can be believed."""

import typer

from scripts.audit.prove import prove
from scripts.audit.show import show
from scripts.audit.verify import verify

app = typer.Typer(
    no_args_is_help=True,
    help="What left a site as its ledger says, and whether to believe it.",
)
app.command("show")(show)
app.command("verify")(verify)
app.command("prove")(prove)

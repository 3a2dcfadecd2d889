"""`sonofed gate`: what may pass a hospital's door, and which code may run behind it."""

import typer

from scripts.gate.approvals import approvals
from scripts.gate.approve import approve
from scripts.gate.check import check
from scripts.gate.manifest import manifest
from scripts.gate.revoke import revoke
from scripts.gate.run import run

app = typer.Typer(
    no_args_is_help=True, help="What may pass a hospital's door, and which code may run behind it."
)
policy = typer.Typer(no_args_is_help=True, help="The policy: what a study would carry.")
policy.command("manifest")(manifest)
policy.command("check")(check)
app.add_typer(policy, name="policy")
app.command("run")(run)
app.command("approve")(approve)
app.command("approvals")(approvals)
app.command("revoke")(revoke)

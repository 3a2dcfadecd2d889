"""`sonofed site`: what a hospital types."""

import typer

from scripts.site.check import check
from scripts.site.desk import desk
from scripts.site.join import join
from scripts.site.keep import backup, purge
from scripts.site.run import down, status, up

app = typer.Typer(no_args_is_help=True, help="At a hospital: its place in a consortium.")
app.command("join")(join)
app.command("check")(check)
app.command("up")(up)
app.command("down")(down)
app.command("status")(status)
app.command("desk")(desk)
app.command("purge")(purge)
app.command("backup")(backup)

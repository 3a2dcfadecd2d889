"""The `sonofed` command: one file a command, put together here."""

import common.environment  # noqa: F401, I001 - before anything that might look outside

import sys

if sys.argv[1:3] == ["gate", "run"]:
    # The gate's process neither holds the training's code nor waits for it to load.
    from scripts.gate.run import main as run_gate

    run_gate(sys.argv[3:])

import typer
from rich.console import Console

from common.errors import InputError
from scripts import config, data, labels, simulate
from scripts.audit.command import app as audit
from scripts.bench.command import bench
from scripts.compare import compare
from scripts.consortium.command import app as consortium
from scripts.export import export
from scripts.gate.command import app as gate
from scripts.init import init
from scripts.phantom.command import phantom
from scripts.poc import app as poc
from scripts.predict import predict
from scripts.report import report
from scripts.runs import runs
from scripts.site.command import app as site
from scripts.study.command import app as study
from scripts.sweep import sweep

app = typer.Typer(
    name="sonofed",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Hospitals train ultrasound AI together; weights travel, images never do.",
    rich_markup_mode="markdown",
)
app.command("simulate")(simulate.simulate)
app.command("sweep")(sweep)
app.command("compare")(compare)
app.command("runs")(runs)
app.command("report")(report)
app.command("export")(export)
app.command("predict")(predict)
app.command("init")(init)
app.command("phantom")(phantom)
app.command("bench")(bench)
app.add_typer(config.app, name="config")
app.add_typer(data.app, name="data")
app.add_typer(labels.app, name="labels")
app.add_typer(gate, name="gate")
app.add_typer(audit, name="audit")
app.add_typer(poc, name="poc")
app.add_typer(consortium, name="consortium")
app.add_typer(study, name="study")
app.add_typer(site, name="site")


def main() -> None:
    """Run the command; what a person caused is said in plain words, with exit code 2."""
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        app()
    except InputError as error:
        for problem in error.problems:
            errors.print(f"error: {problem}", style="red", markup=False)
        sys.exit(2)
    except KeyboardInterrupt:
        errors.print("stopped; --resume goes on from the last finished round")
        sys.exit(130)


if __name__ == "__main__":
    main()

"""The `sonofed` command: one file a command, put together here."""

import common.environment  # noqa: F401, I001 - before anything that might look outside

import sys

if sys.argv[1:3] == ["gate", "run"]:
    # The gate's process neither holds the training's code nor waits for it to load.
    from scripts.gate.run import main as run_gate

    run_gate(sys.argv[3:])

from rich.console import Console

from common.errors import InputError
from scripts.lazy import Place, lazy

COMMANDS = {
    "simulate": Place(
        "scripts.simulate", "simulate",
        "Run a federated study on one machine, every site with its own data and folder.",
    ),
    "sweep": Place("scripts.sweep", "sweep", "Run a study over seeds and a grid of settings."),
    "compare": Place(
        "scripts.compare", "compare",
        "Mean and spread over seeds for every arm, site and metric; tests; differences of config.",
    ),
    "runs": Place(
        "scripts.runs", "runs",
        "List runs: finished, running? (files changed within ten minutes) or stopped, and where.",
    ),
    "report": Place(
        "scripts.report", "report",
        "Make RUN/report.html again, and the sites' own pages in RUN/sites/SITE/.",
    ),
    "export": Place(
        "scripts.export", "export",
        "Write a MONAI Bundle: configs, weights (safetensors, PyTorch, ONNX), model card, digests.",
    ),
    "predict": Place(
        "scripts.predict", "predict",
        "Segment or classify everything at INPUT; every mask fits its original to the pixel.",
    ),
    "init": Place(
        "scripts.init", "init",
        "Write a study: which sites there are, where their manifests lie, what is compared.",
    ),
    "phantom": Place(
        "scripts.phantom", "phantom",
        "Draw synthetic ultrasound sites: sweeps with exact masks, different patients per probe.",
    ),
    "bench": Place(
        "scripts.bench.command", "bench",
        "Measure ours against the plain way, same run, same input; one JSON line each.",
    ),
    "config": Place("scripts.config", "app", "What a study may say."),
    "data": Place("scripts.data", "app", "Check a site's data; import published sets."),
    "labels": Place(
        "scripts.labels", "app",
        "Labels of the images that a study has selected: what to annotate, what was annotated.",
    ),
    "gate": Place(
        "scripts.gate.command", "app",
        "What may pass a hospital's door, and which code may run behind it.",
    ),
    "audit": Place(
        "scripts.audit.command", "app",
        "What left a site as its ledger says, and whether to believe it.",
    ),
    "poc": Place(
        "scripts.poc", "app",
        "A whole consortium rehearsed on one machine, for practice and tests.",
    ),
    "consortium": Place(
        "scripts.consortium.command", "app", "A consortium, seen from its coordinating center."
    ),
    "study": Place("scripts.study.command", "app", "A study on a consortium of real machines."),
    "site": Place("scripts.site.command", "app", "At a hospital: its place in a consortium."),
}  # fmt: skip
"""Every command, in the order of the help; a test holds the lines against the commands' own."""

app = lazy(
    "Hospitals train ultrasound AI together; weights travel, images never do.",
    COMMANDS,
    name="sonofed",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


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

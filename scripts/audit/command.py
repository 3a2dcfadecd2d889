"""`sonofed audit`: what a ledger says, and whether it can be believed."""

from scripts.lazy import Place, lazy

COMMANDS = {
    "show": Place(
        "scripts.audit.show", "show",
        "Show what came in, what left and what was refused, by study, stage and round.",
    ),
    "verify": Place(
        "scripts.audit.verify", "verify",
        "Check that nothing in a ledger was changed, removed or cut off. Exit code 1 if it was.",
    ),
    "prove": Place(
        "scripts.audit.prove", "prove",
        "Prove on this machine that images do not leave, and that the proof could have failed.",
    ),
}  # fmt: skip

app = lazy("What left a site as its ledger says, and whether to believe it.", COMMANDS)

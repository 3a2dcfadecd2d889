"""`sonofed site`: what a hospital types."""

from scripts.lazy import Place, lazy

COMMANDS = {
    "join": Place("scripts.site.join", "join", "Join a consortium, in two steps."),
    "check": Place(
        "scripts.site.check", "check",
        "Look at everything that taking part needs, and say what to do where something is missing.",
    ),
    "up": Place("scripts.site.run", "up", "Start gate and SuperNode, and keep them at work."),
    "down": Place(
        "scripts.site.run", "down",
        "Stop gate and SuperNode. What is spooled and written stays for the next start.",
    ),
    "status": Place(
        "scripts.site.run", "status",
        "Say what runs and until when the certificate holds. Exit code 1 if it does not run.",
    ),
    "desk": Place(
        "scripts.site.desk", "desk",
        "Read the selected images in the browser: labels, outlines, and where readers disagree.",
    ),
    "purge": Place(
        "scripts.site.keep", "purge",
        "Remove what studies have left here: cache, reconstructions, worklists, spooled messages.",
    ),
    "backup": Place(
        "scripts.site.keep", "backup",
        "Pack what this site must not lose: its file, policy, keys, ledger, approvals, experts' "
        "words.",
    ),
}  # fmt: skip

app = lazy("At a hospital: its place in a consortium.", COMMANDS)

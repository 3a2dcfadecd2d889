"""`sonofed gate`: what may pass a hospital's door, and which code may run behind it."""

from scripts.lazy import Place, lazy

POLICY = {
    "manifest": Place(
        "scripts.gate.manifest", "manifest",
        "Write a study's manifest, and print the lines for the policy's [studies].",
    ),
    "check": Place(
        "scripts.gate.check", "check",
        "Say what a study would ask of the policy's site, and what the policy would refuse.",
    ),
}  # fmt: skip
policy = lazy("The policy: what a study would carry.", POLICY)
COMMANDS = {
    "policy": Place("scripts.gate.command", "policy", "The policy: what a study would carry."),
    "run": Place(
        "scripts.gate.run", "run",
        "Run the gate: the only door between this site's SuperNode and the network.",
    ),
    "approve": Place(
        "scripts.gate.approve", "approve",
        "Show what is in a bundle, against the one approved last, and sign that it may run here.",
    ),
    "approvals": Place(
        "scripts.gate.approvals", "approvals",
        "List every bundle that was approved, and whether it still may run.",
    ),
    "revoke": Place(
        "scripts.gate.revoke", "revoke", "Sign that a bundle may run no longer at this site."
    ),
}  # fmt: skip

app = lazy("What may pass a hospital's door, and which code may run behind it.", COMMANDS)

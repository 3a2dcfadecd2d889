"""What the server knows of a gate: its codes, and the two records that both add to messages."""

WEIGHTS, METRICS = "weights", "metrics"
LEDGER = "ledger"
"""Beside a reply: key, sequence and head of the site's ledger, whose last line speaks of it."""
RECEIPT = "receipt"
"""Beside an instruction: the server's signed line on the reply before."""

REFUSED_INSTRUCTION = 1101
REFUSED_CONTENT = 1102
REFUSED_COHORT = 1103
REFUSED_SIZE = 1104
REFUSED_UPDATE = 1105
REFUSED_RELEASE = 1106
UNWRITTEN = 1107
UNANSWERED = 1108
GATE_ERRORS = {
    REFUSED_INSTRUCTION: "its gate did not let the instruction in",
    REFUSED_CONTENT: "its gate let nothing out: the reply is not what the manifest says",
    REFUSED_COHORT: "its gate let nothing out: too few patients stand behind it",
    REFUSED_SIZE: "its gate let nothing out: too many bytes",
    REFUSED_UPDATE: "its gate let nothing out: the weights moved too far",
    REFUSED_RELEASE: "its gate let nothing out: the weights may reproduce images",
    UNWRITTEN: "its gate let nothing out: it could not write it down",
    UNANSWERED: "its gate let nothing out: its code was asked again and again, and never answered",
}
"""All that the server learns of a refusal, with the number of the ledger's line. The words stay."""

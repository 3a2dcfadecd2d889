"""What a site and the consortium must agree on before a study: versions, the study, the policy."""

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase

from clients.center import center_of
from clients.finding import Finding
from clients.gate.manifest import Exchange, Manifest, Tensor
from clients.gate.policy import Policy
from clients.gate.tensors import npy_bytes
from clients.site_file import SiteFile
from common.errors import InputError
from common.versions import differences, is_behind

SHOWN = 4
"""Names that a finding shows of many."""


def agreement(site: SiteFile, policy: Policy | InputError) -> Iterator[Finding]:
    """Versions, the study that was announced, and each study's manifest against the policy.

    Args:
        site: The site's file.
        policy: Its policy, or why it cannot be read, which is said elsewhere.
    """
    try:
        center = center_of(site)
    except InputError as error:
        yield Finding("center", "fail", error.problems[0], "`sonofed site join INVITE`")
        return
    yield from _versions(center.versions)
    if isinstance(policy, InputError):
        return
    yield from _study(policy, center.study)
    for name, manifest in policy.manifests.items():
        yield _against(policy, name, manifest)


def _versions(theirs: Mapping[str, str]) -> Iterator[Finding]:
    """The center's are as old as its last invitation: it may have gone on since, never back."""
    differing = "; ".join(differences(theirs))
    if not theirs:
        return
    if not differing:
        yield Finding("versions", "ok", "are the center's")
    elif is_behind(theirs):
        yield Finding("versions", "fail", differing, "install the center's version (docs/site.md)")
    else:
        yield Finding(
            "versions", "warn", f"{differing}, when it last invited or admitted this site",
            "ask whether the center has been upgraded too; a new invitation says so",
        )  # fmt: skip


def _study(policy: Policy, announced: str) -> Iterator[Finding]:
    if not announced or not policy.file.studies:
        return
    held = {name: entry.digest for name, entry in policy.file.studies.items()}
    agreeing = [name for name, digest in held.items() if digest == announced]
    open_ = [name for name, digest in held.items() if digest is None]
    if agreeing:
        yield Finding("study", "ok", f"{agreeing[0]} is the one of the invitation")
    elif open_:
        yield Finding(
            "study", "warn", f"{', '.join(open_)}: any study of that name passes; the invitation "
            f"names the one with SHA-256 {announced}",
            'write digest = "..." into [studies.NAME], and no other passes',
        )  # fmt: skip
    else:
        ours = ", ".join(f"{name}: {digest}" for name, digest in held.items())
        yield Finding(
            "study", "fail", f"the invitation names the study with SHA-256 {announced}, the policy "
            f"holds {ours}",
            "ask the coordinator which it is; correct digest in the policy, or join with a new "
            "invitation",
        )  # fmt: skip


def _against(policy: Policy, name: str, manifest: Manifest) -> Finding:
    """What of a study's messages the policy is certain to refuse, whatever the study says."""
    closed: dict[str, None] = {}
    problems: dict[str, None] = {}
    allowed = False
    for told, exchange in manifest.exchanges.items():
        stage = told.partition(" ")[0].partition(".")[2]
        if stage not in policy.file.stages:
            closed[stage] = None
            continue
        allowed = True
        problems |= dict.fromkeys(_refused(policy, stage, exchange))
    what, remedy = f"study {name}", "`sonofed gate policy check` with the study's file says more"
    if not allowed:
        return Finding(what, "fail", "the policy allows none of its stages", "see [stages] in it")
    if problems:
        return Finding(what, "warn", f"will be refused: {_few(list(problems))}", remedy)
    if closed:
        words = f"the policy takes no part in its stages {_few(list(closed))}"
        return Finding(what, "warn", words, f"right, if none of them needs this site; {remedy}")
    return Finding(what, "ok", "the policy has a rule for all that its messages carry")


def _refused(policy: Policy, stage: str, exchange: Exchange) -> Iterator[str]:
    rules = policy.file.stages[stage]
    patterns = [*policy.file.metrics, *rules.metrics]
    for metric in exchange.metrics:
        if not any(fnmatchcase(metric, pattern) for pattern in patterns):
            yield f"metric {metric} (no rule allows it)"
    most = rules.message_mb or policy.file.limits.message_mb
    size = message_bytes(exchange.up) / 1e6
    if size > most:
        yield f"weights of {stage} ({size:.0f} MB, and {most:g} MB may leave at once)"


def _few(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def message_bytes(tensors: tuple[Tensor, ...]) -> int:
    """Bytes of the tensors' .npy forms."""
    return sum(npy_bytes(tensor.dtype, tensor.shape) for tensor in tensors)

"""A study's file held against what a site has: its invitation, its policy."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from clients.center import center_of
from clients.finding import Finding
from clients.gate.policy_file import load_policy
from clients.site_file import SiteFile
from common.config.load import load_study
from common.errors import InputError
from common.own_parts import check_own_parts
from common.plugins import look_in


def against(site: SiteFile, study_file: Path, overrides: Sequence[str]) -> Iterator[Finding]:
    """Whether this is the study that was announced, and whether the policy lets it run.

    Args:
        site: The site's file.
        study_file: The study's.
        overrides: key=value over it.

    Raises:
        InputError: If the study is not sound.
    """
    from scripts.gate.check import problems  # late: it brings torch

    look_in(study_file.parent)
    study = load_study(study_file, list(overrides))
    check_own_parts(study)
    digest = study.for_sites().digest
    try:
        announced, policy = center_of(site).study, load_policy(site.gate.policy)
    except InputError:
        return  # said by what looks at these
    if announced and announced != digest:
        yield Finding(
            "this study", "fail",
            f"{study_file} has SHA-256 {digest}, the invitation names {announced}",
            "ask the coordinator for the file, or for an invitation to this study",
        )  # fmt: skip
    from clients.exchanges import manifest_of
    from clients.gate.policy import Policy

    held = Policy(policy.file, {study.name: manifest_of(study)})
    refused = list(problems(held, study, site.gate.policy))
    for words in refused:
        yield Finding("this study", "fail", f"the policy would refuse: {words}", "see the policy")
    if not refused:
        yield Finding("this study", "ok", f"the policy refuses nothing of {study.name}")

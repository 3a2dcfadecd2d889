"""Hospitals' own policies in a simulation: which site has which, and whether the study fits it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from clients.exchanges import manifest_of
from clients.gate.policy import Policy
from clients.gate.policy_file import load_policy
from clients.settings import SiteSettings
from common.config.data import nearest
from common.config.study import Study
from common.errors import InputError
from scripts.gate.check import problems


def site_policies(given: Sequence[str], study: Study) -> dict[str, Path]:
    """Site to policy file, each held against the study before anything runs.

    Args:
        given: `SITE=FILE`, once for each site that has one.
        study: What is to run.

    Raises:
        InputError: With everything that is no such pair, and all that a policy would refuse: the
            study would stop there.
    """
    found: dict[str, Path] = {}
    wrong: list[str] = []
    for pair in given:
        site, _, file = pair.partition("=")
        if not file:
            wrong.append(f"--policy {pair}: is not SITE=FILE")
        elif site not in study.sites:
            wrong.append(f"--policy {pair}: no site '{site}'{nearest(site, study.sites)}")
        elif site in found:
            wrong.append(f"--policy {pair}: {site} has one already")
        else:
            found[site] = Path(file).resolve()
    if wrong:
        raise InputError(wrong)
    for site, path in found.items():
        wrong += _refused(site, path, study)
    if wrong:
        raise InputError(wrong)
    return found


def _refused(site: str, path: Path, study: Study) -> list[str]:
    try:
        policy = load_policy(path)
    except InputError as error:
        return error.problems
    if policy.file.site != site:
        return [f"{path}: is the policy of {policy.file.site}, not of {site}"]
    asked = Policy(policy.file, {study.name: manifest_of(study)})
    return [f"{site}: {path} would refuse: {words}" for words in problems(asked, study, path)]


def with_policies(
    sites: Sequence[SiteSettings], policies: Mapping[str, Path]
) -> list[SiteSettings]:
    """The sites' settings, each with its own policy where it has one."""
    return [site.model_copy(update={"policy": policies.get(site.name)}) for site in sites]

"""`sonofed gate policy check`: what a study would ask and a policy would refuse, beforehand."""

import json
import math
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

import typer

from clients.agreement import message_bytes
from clients.exchanges import manifest_of, split_name
from clients.gate import manifest as manifests
from clients.gate.facts import InstructionFacts, ReplyFacts, TensorFacts
from clients.gate.manifest import Exchange, Manifest, Tensor
from clients.gate.policy import Policy, judge
from clients.gate.policy_file import load_file
from clients.gate.rules import Rule
from clients.gate.tensors import npy_bytes
from common.config.load import load_study
from common.config.study import Study
from common.own_parts import check_own_parts
from common.plan import make_plan
from common.plugins import look_in
from scripts.live import say

DIFFERENCES = {
    (False, True): "is new",
    (True, False): "is gone",
    (True, True): "carries something else",
}


def check(
    policy_file: Annotated[Path, typer.Argument(metavar="POLICY.toml", help="The site's policy.")],
    study_file: Annotated[
        Path, typer.Option("--study", metavar="STUDY.toml", help="The study that wants to run.")
    ],
    override: Annotated[
        list[str] | None, typer.Option("--set", help="key=value over the study; repeatable.")
    ] = None,
) -> None:
    """Say what a study would ask of the policy's site, and what the policy would refuse.

    Nothing runs. Each message of the study, with an honest reply as large as it can be, goes
    through the function that judges in earnest. Exit code 1 if anything would be refused.
    """
    look_in(study_file.parent)
    study = load_study(study_file, override or [])
    check_own_parts(study)
    policy = Policy(load_file(policy_file), {study.name: manifest_of(study)})
    refused = list(problems(policy, study, policy_file))
    found = policy.manifests[study.name].exchanges
    asked = [name for name in found if concerns(study, policy.file.site, name, found[name])]
    say(f"study {study.name} may send {len(asked)} kinds of message to {policy.file.site}")
    for name in asked:
        say(f"  {name}: {describe(found[name])}")
    if not refused:
        say("the policy refuses none of it")
        return
    say("the policy would refuse:")
    for line in refused:
        say(f"  {line}")
    raise typer.Exit(1)


def concerns(study: Study, site: str, name: str, exchange: Exchange) -> bool:
    """Whether a message goes to a site at all, and carries anything."""
    plan = make_plan(study)
    message, key, _ = split_name(name)
    if not (exchange.down or exchange.metrics or any(map(_values, exchange.up))):
        return False
    if message.startswith("train."):
        return site in plan.trainings[key].participants
    # Every site looks at its images with every member of the bundle, also with those of others.
    return message == "query.reference" or site in plan.predictors.get(key, (site,))


def describe(exchange: Exchange) -> str:
    """What a message carries, for people."""
    down, up = (message_bytes(tensors) / 1e6 for tensors in (exchange.down, exchange.up))
    return (
        f"{len(exchange.down)} tensors in ({down:.1f} MB), {len(exchange.up)} out ({up:.1f} MB), "
        f"{len(exchange.metrics)} scalars out"
    )


def problems(policy: Policy, study: Study, policy_file: Path) -> Iterator[str]:
    """Everything that would be refused, once."""
    file, found = policy.file, policy.manifests[study.name]
    site = study.sites.get(file.site)
    if site is None:
        yield f"site {file.site}: is none of the study's ({', '.join(study.sites)})"
    entry = file.studies.get(study.name)
    if entry is None:
        yield f"study {study.name}: stands not in [studies]; `gate policy manifest` gives its lines"
        return
    yield from _manifest_problems(policy_file.parent / entry.manifest, entry.sha256, found)
    crossing = study.for_sites()
    told: dict[str, None] = {}
    for name, exchange in found.exchanges.items():
        if not concerns(study, file.site, name, exchange):
            continue
        message, training, step = split_name(name)
        stage = message.partition(".")[2]
        if stage not in file.stages:
            told[f"stage {stage}: the site takes no part in it"] = None
            continue
        asked = InstructionFacts(
            message, json.loads(crossing.canonical()), crossing.digest, training, step=step,
            # Which code would run is not known beforehand.
            bundle=next(iter(file.bundles.approved), ""), tensors=_facts(exchange.down, policy),
        )  # fmt: skip
        for words in _judged(policy, name, exchange, asked):
            told[words] = None
    yield from told


def _manifest_problems(path: Path, sha256: str, found: Manifest) -> Iterator[str]:
    if manifests.digest(found) == sha256:
        return
    yield f"the policy holds the digest of another manifest ({sha256[:12]}...) than the study has"
    if path.exists():
        old = manifests.read(path).exchanges
        for name in sorted({*old, *found.exchanges}):
            if old.get(name) != found.exchanges.get(name):
                where = (name in old, name in found.exchanges)
                yield f"  {name}: {DIFFERENCES[where]}"


def _judged(
    policy: Policy, name: str, exchange: Exchange, asked: InstructionFacts
) -> Iterator[str]:
    open_ = policy.file.model_copy(
        update={"bundles": policy.file.bundles.model_copy(update={"any": True})}
    )
    beforehand = Policy(open_, policy.manifests)
    coming = judge(beforehand, asked)
    if not coming.passes:
        for words in coming.why:
            yield words if words.startswith("study, ") else f"{name}: {words}"
        return
    reply = ReplyFacts(_facts(exchange.up, policy), honest_metrics(exchange, policy, asked.stage))
    for words in judge(beforehand, asked, reply).why:
        yield f"{name}: {words}"


def honest_metrics(exchange: Exchange, policy: Policy, stage: str) -> dict[str, float | int]:
    """Scalars as an honest site could send them: within all ranges, where those meet at all.

    Whether the site's own numbers will lie there is not the study's to promise.
    """
    file = policy.file
    rules = [*file.metrics.items(), *file.stages[stage].metrics.items()]
    found: dict[str, float | int] = {}
    for name, metric in exchange.metrics.items():
        people = any(fnmatchcase(name, pattern) for pattern in file.cohort.counts)
        least = max(metric.low, file.cohort.minimum if people else metric.low)
        value = 0.0 if name in file.release.metrics else least_allowed(name, rules, least)
        found[name] = int(value) if metric.kind == "count" else value
    return found


def least_allowed(name: str, rules: Iterable[tuple[str, Rule]], least: float) -> float:
    """The smallest value of a scalar that all rules allow, from `least` on."""
    matching = [rule for pattern, rule in rules if fnmatchcase(name, pattern)]
    lows = [rule.low for rule in matching if rule.low is not None]
    return float(max([least, *lows]))


def _facts(tensors: tuple[Tensor, ...], policy: Policy) -> tuple[TensorFacts, ...]:
    rules = list(policy.file.integers.items())
    found = []
    for tensor in tensors:
        value = int(least_allowed(tensor.name, rules, 0.0))
        found.append(
            TensorFacts(
                tensor.name, tensor.dtype, tensor.shape,
                npy_bytes(tensor.dtype, tensor.shape), "0" * 64,
                low=value, high=value, square=1.0, update_square=0.0,
            )
        )  # fmt: skip
    return tuple(found)


def _values(tensor: Tensor) -> int:
    return math.prod(tensor.shape)

"""The site's policy, and the one pure function that judges messages by it.

The same `judge` stands between a SuperNode and the network, and in every message of a simulation.
What no rule allows is refused. The policy is the site's own: no study can widen it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from clients.gate.buckets import COUNT_BUCKET, bucket_of
from clients.gate.cohort import counts_people, uncounted
from clients.gate.facts import InstructionFacts, ReplyFacts, TensorFacts
from clients.gate.manifest import Exchange, Manifest, Tensor
from clients.gate.rules import Cohort, PolicyFile, Release, Rule, Rules, StageRules, short
from clients.gate.tensors import DTYPES, npy_bytes
from common.wire.gate import (
    REFUSED_COHORT,
    REFUSED_CONTENT,
    REFUSED_INSTRUCTION,
    REFUSED_RELEASE,
    REFUSED_SIZE,
    REFUSED_UPDATE,
)

MB = 1_000_000
WILD = frozenset("*?[")
"""Letters that make a key a pattern."""
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "bool")


@dataclass(frozen=True)
class Policy:
    """The file with what it refers to.

    Attributes:
        file: The file.
        manifests: The manifest of each of its studies, by the study's name.
        approved: SHA-256 of approved bundles, beside those in the file.
    """

    file: PolicyFile
    manifests: Mapping[str, Manifest]
    approved: frozenset[str] = field(default=frozenset())

    def exchange(self, instruction: InstructionFacts) -> Exchange | None:
        """What the manifest says of a message; None where it says nothing."""
        manifest = self.manifests.get(str(instruction.study.get("name")))
        return manifest.exchanges.get(instruction.exchange) if manifest else None

    def wants_update(self, stage: str) -> bool:
        """Whether replies of a stage are to be held against what came in."""
        rules = self.file.stages.get(stage)
        return rules is not None and rules.update_norm is not None


def largest_in(policy: Policy) -> int:
    """Bytes of the weights of the largest instruction that its manifests know."""
    return max(
        (
            sum(npy_bytes(t.dtype, t.shape) for t in exchange.down if t.dtype in DTYPES)
            for manifest in policy.manifests.values()
            for exchange in manifest.exchanges.values()
        ),
        default=0,
    )


@dataclass(frozen=True)
class Verdict:
    """What `judge` says.

    Attributes:
        code: 0: it may pass; else one of `common.wire.gate.GATE_ERRORS`.
        why: Each reason, for the site's own ledger.
    """

    code: int = 0
    why: tuple[str, ...] = ()

    @property
    def passes(self) -> bool:
        """Whether it may pass."""
        return self.code == 0


Problems = Iterator[tuple[int, str]]


def judge(
    policy: Policy,
    instruction: InstructionFacts,
    reply: ReplyFacts | None = None,
    *,
    sent_today: int = 0,
) -> Verdict:
    """May this instruction come in; and where there is a reply, may that leave?

    Args:
        policy: The site's.
        instruction: What was asked.
        reply: What would leave, or None while nothing does.
        sent_today: Bytes that have left today (UTC).

    Returns:
        The verdict with every reason; its code is the first one's. The same arguments give the
        same verdict, always.
    """
    found = list(_instruction(policy, instruction))
    if reply is not None and not found:
        found = list(_reply(policy, instruction, reply, sent_today))
    return Verdict(found[0][0], tuple(words for _, words in found)) if found else Verdict()


def _instruction(policy: Policy, asked: InstructionFacts) -> Problems:
    file = policy.file
    for words in _instruction_words(policy, file, asked):
        yield REFUSED_INSTRUCTION, words


def _instruction_words(policy: Policy, file: PolicyFile, asked: InstructionFacts) -> Iterator[str]:
    name = str(asked.study.get("name"))
    if name not in file.studies:
        yield f"study {short(name)}: the site takes no part in it"
        return
    digest = file.studies[name].digest
    if digest is not None and asked.study_digest != digest:
        yield f"study {short(name)}: has the digest {asked.study_digest}, the policy says {digest}"
    if asked.stage not in file.stages:
        yield f"stage {short(asked.stage)}: the site takes no part in it"
        return
    known = file.bundles.any or asked.bundle in file.bundles.approved
    if not known and asked.bundle not in policy.approved:
        yield f"code {asked.bundle or 'without a digest'}: is not approved"
    yield from study_problems(file.study, asked.study)
    exchange = policy.exchange(asked)
    if exchange is None:
        yield f"{short(asked.exchange)}: the manifest of {name} has no such message"
        return
    for words in _tensors(asked.tensors, exchange.down):
        yield f"weights in: {words}"


def study_problems(rules: Rules, study: Mapping[str, Any]) -> Iterator[str]:
    """What of a study the rules for its keys refuse.

    A rule that names one key and says what it must be wants it to be there: what a study leaves
    out, its code would fill in.
    """
    found = {key for key, value in leaves(study) if value is not None}
    for key, rule in rules.items():
        if rule.demands and not WILD.intersection(key) and key not in found:
            yield f"study, {short(key)}: is not there, and a rule says what it must be"
    if not isinstance(bucket_of(study), int):
        yield f"study, {COUNT_BUCKET}: is no whole number of 1 or more"
    for key, value in leaves(study):
        matching = [rule for pattern, rule in rules.items() if fnmatchcase(key, pattern)]
        if not matching:
            yield f"study, {short(key)}: no rule allows this key"
        for rule in matching:
            words = "" if value is None else rule.problem(value)
            if words:
                yield f"study, {short(key)}: {words}"


def leaves(value: object, key: str = "") -> Iterator[tuple[str, object]]:
    """Dotted keys of a study with their values; each element of a list stands under its key."""
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from leaves(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, (list, tuple)) and value:
        for inner in value:
            yield from leaves(inner, key)
    else:
        # An empty table or list says nothing but that its key is there.
        yield key, None if isinstance(value, (Mapping, list, tuple)) else value


def _reply(policy: Policy, asked: InstructionFacts, reply: ReplyFacts, sent_today: int) -> Problems:
    if reply.error:
        return
    exchange = policy.exchange(asked)
    assert exchange is not None
    for words in (*_tensors(reply.tensors, exchange.up), *_metrics(policy, asked, reply, exchange)):
        yield REFUSED_CONTENT, words
    for words in _values(policy.file, reply.tensors):
        yield REFUSED_CONTENT, words
    yield from _cohort(policy.file.cohort, exchange, reply)
    yield from _sizes(policy.file, asked.stage, reply, sent_today)
    yield from _update(policy.file.stages[asked.stage], reply)
    yield from _release(policy.file.release, asked.stage, reply)


def _tensors(got: tuple[TensorFacts, ...], wanted: tuple[Tensor, ...]) -> Iterator[str]:
    """The manifest's tensors: all of them, in its order, of its dtypes and shapes, finite."""
    names, expected = [tensor.name for tensor in got], [tensor.name for tensor in wanted]
    if names != expected:
        yield from _names(names, expected)
        return
    for tensor, spec in zip(got, wanted, strict=True):
        if (tensor.dtype, tensor.shape) != (spec.dtype, spec.shape):
            told = f"{short(tensor.dtype)} {list(tensor.shape)}"
            yield f"{spec.name}: is {told}, the manifest says {spec.dtype} {list(spec.shape)}"
        elif not tensor.finite:
            yield f"{spec.name}: holds NaN or infinity"


def _names(names: list[str], expected: list[str]) -> Iterator[str]:
    missing = [name for name in expected if name not in names]
    extra = [name for name in names if name not in expected]
    if missing:
        yield f"{missing[0]}: is missing, with {len(missing) - 1} more"
    if extra:
        yield f"{short(extra[0])}: is not in the manifest, with {len(extra) - 1} more"
    if not missing and not extra:
        wrong = next((a for a, b in zip(expected, names, strict=False) if a != b), names[-1])
        yield f"{wrong}: is not in the manifest's order"


def _metrics(
    policy: Policy, asked: InstructionFacts, reply: ReplyFacts, exchange: Exchange
) -> Iterator[str]:
    if exchange.complete:
        for name in exchange.metrics:
            if name not in reply.metrics:
                yield f"metric {name}: is missing"
    own = policy.file.stages[asked.stage].metrics
    rules = [*policy.file.metrics.items(), *own.items()]
    for name, value in reply.metrics.items():
        spec = exchange.metrics.get(name)
        if spec is None:
            yield f"metric {short(name)}: is not in the manifest"
            continue
        matching = [rule for pattern, rule in rules if fnmatchcase(name, pattern)]
        if not matching:
            yield f"metric {name}: no rule of the policy allows it"
        if (spec.kind == "count") != isinstance(value, int):
            yield f"metric {name}: is no {spec.kind}"
        for rule in (Rule(low=spec.low, high=spec.high), *matching):
            words = rule.problem(value)
            if words:
                yield f"metric {name}: {words}"


def _values(file: PolicyFile, tensors: tuple[TensorFacts, ...]) -> Iterator[str]:
    """Ranges of whole numbers, and statistics of normalisation."""
    for tensor in tensors:
        if not file.normalisation.statistics and _matches(tensor.name, file.normalisation.names):
            yield f"{tensor.name}: statistics of normalisation do not leave this site"
        if tensor.dtype not in INTEGERS:
            continue
        matching = [rule for glob, rule in file.integers.items() if fnmatchcase(tensor.name, glob)]
        if not matching:
            yield f"{tensor.name}: no rule in [integers] allows its whole numbers"
        for rule in matching:
            for value in (tensor.low, tensor.high):
                words = "" if value is None else rule.problem(value)
                if words:
                    yield f"{tensor.name}: {words}"


def _cohort(cohort: Cohort, exchange: Exchange, reply: ReplyFacts) -> Problems:
    for name, value in reply.metrics.items():
        if 0 < value < cohort.minimum and counts_people(cohort, name):
            yield REFUSED_COHORT, f"metric {name}: {value} are fewer than {cohort.minimum}"
    for name in uncounted(cohort, exchange, reply.metrics):
        yield REFUSED_COHORT, f"metric {name}: came without the number of people that it is of"


def _sizes(file: PolicyFile, stage: str, reply: ReplyFacts, sent_today: int) -> Problems:
    limit = file.stages[stage].message_mb or file.limits.message_mb
    if reply.bytes > limit * MB:
        yield REFUSED_SIZE, f"{reply.bytes / MB:.1f} MB are more than {limit:g} MB a message"
    total = sent_today + reply.bytes
    if total > file.limits.day_mb * MB:
        words = f"{total / MB:.1f} MB are more than {file.limits.day_mb:g} MB a day"
        yield REFUSED_SIZE, words


def _update(rules: StageRules, reply: ReplyFacts) -> Problems:
    """The norm of the whole update against that of the weights it starts from."""
    if rules.update_norm is None:
        return
    pairs = [
        (tensor.update_square, tensor.square)
        for tensor in reply.tensors
        if tensor.update_square is not None and tensor.square is not None
    ]
    moved, start = (sum(values) ** 0.5 for values in zip(*pairs, strict=True)) if pairs else (0, 0)
    if not moved <= rules.update_norm * start:
        share = f"{moved / start:.3g} times" if start else "without end against"
        yield (
            REFUSED_UPDATE,
            f"the update is {share} the weights that came in; {rules.update_norm:g} are allowed",
        )


def _release(release: Release, stage: str, reply: ReplyFacts) -> Problems:
    if stage not in release.stages or not reply.tensors:
        return
    for name in release.metrics:
        value = reply.metrics.get(name)
        if value is None:
            yield REFUSED_RELEASE, f"metric {name}: is missing, so these weights stay here"
        elif not value < release.threshold:
            yield REFUSED_RELEASE, f"metric {name}: {value:g} is not below {release.threshold:g}"


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)

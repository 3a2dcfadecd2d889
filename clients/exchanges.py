"""A study's messages as the gate knows them: the vocabulary (with torch) made into a manifest.

The gate itself never imports this: it reads the file that was written from it.
"""

from collections.abc import Iterator, Mapping

from clients.app import app
from clients.gate.facts import exchange_name
from clients.gate.manifest import Exchange, Manifest, Metric, Tensor
from clients.gate.policy import Policy
from clients.gate.rules import (
    Bundles,
    Cohort,
    Limits,
    PolicyFile,
    Release,
    Rule,
    StageRules,
    StudyEntry,
)
from common.config.study import Study
from common.plan import Plan, make_plan
from common.wire.crossing import STEPS, Crossing, crossing
from common.wire.errors import PayloadError
from common.wire.payload import array_dtype


def messages() -> list[str]:
    """Category and stage of every message that a site's code answers, such as "train.mim"."""
    return list(app._registered_funcs)


def manifest_of(study: Study) -> Manifest:
    """Every message of a study, found by trying: the vocabulary refuses what there is not."""
    study = study.for_sites()
    plan = make_plan(study)
    keys = ["", *_keys(plan)]
    exchanges = {}
    for message in messages():
        for key in keys:
            for step in steps_of(message):
                found = lookup(study, plan, message, key, step)
                if found is not None:
                    name = exchange_name(message, key, step)
                    exchanges[name] = exchange_of(found, study.wire.dtype)
    return Manifest(exchanges=exchanges)


def steps_of(message: str) -> tuple[str, ...]:
    """Steps of a message's stage; the empty one where it has none."""
    return STEPS.get(message.partition(".")[2], ("",))


def lookup(study: Study, plan: Plan, message: str, key: str, step: str) -> Crossing | None:
    """What a message carries; None where there is none, or its key says nothing."""
    if message not in messages() or step not in steps_of(message):
        return None
    found = _crossing(study, plan, message, key, step)
    if found is not None and key and _crossing(study, plan, message, "", step) == found:
        return None
    return found


def split_name(name: str) -> tuple[str, str, str]:
    """Message, key and step of an exchange's name; a lone word is a step where it is one."""
    message, *rest = name.split(" ")
    if rest and rest[0] in steps_of(message):
        rest = ["", *rest]
    key, step = [*rest, "", ""][:2]
    return message, key, step


def _crossing(study: Study, plan: Plan, message: str, key: str, step: str) -> Crossing | None:
    category, _, stage = message.partition(".")
    try:
        return crossing(study, plan, category, stage, key, step)
    except (PayloadError, KeyError):
        # A stage that the study has not lacks the trainings that its messages would carry.
        return None


def _keys(plan: Plan) -> list[str]:
    """Names of all that a message may mean: trainings, members, selections, cells."""
    tables = (plan.trainings, plan.predictors, plan.selections, plan.cells)
    return list(dict.fromkeys(key for table in tables for key in table))


def exchange_of(found: Crossing, wire_dtype: str) -> Exchange:
    """One entry of the vocabulary as a manifest says it."""
    down, up = (
        tuple(
            Tensor(name=spec.name, dtype=array_dtype(spec, wire_dtype), shape=spec.shape)
            for spec in specs
        )
        for specs in (found.down, found.up)
    )
    metrics = {
        name: Metric(kind=spec.kind, low=spec.low, high=spec.high)
        for name, spec in found.metrics.items()
    }
    return Exchange(down=down, up=up, metrics=metrics, complete=found.complete)


class Vocabulary(Mapping[str, Exchange]):
    """A study's exchanges, each made when it is asked for: what a simulation judges by."""

    def __init__(self, study: Study) -> None:
        self.study = study.for_sites()
        self.plan = make_plan(self.study)
        self.made: dict[str, Exchange | None] = {}

    def __getitem__(self, name: str) -> Exchange:
        if name not in self.made:
            self.made[name] = self._make(name)
        found = self.made[name]
        if found is None:
            raise KeyError(name)
        return found

    def _make(self, name: str) -> Exchange | None:
        message, key, step = split_name(name)
        if exchange_name(message, key, step) != name:
            return None
        found = lookup(self.study, self.plan, message, key, step)
        return None if found is None else exchange_of(found, self.study.wire.dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(manifest_of(self.study).exchanges)

    def __len__(self) -> int:
        return len(manifest_of(self.study).exchanges)


def simulation_policy(canonical: str, site: str, own_parts: tuple[str, ...] = ()) -> Policy:
    """What a simulation judges by: the vocabulary of its own study, and nothing narrower.

    Args:
        canonical: The study's canonical JSON, as it crossed.
        site: The site.
        own_parts: Parts of somebody's own that the site allows; no other may be imported, and
            knowing what a model's tensors are means importing it.

    Raises:
        ValueError: If the study is not sound, or names another part.
    """
    study = Study.model_validate_json(canonical)
    if set(study.own_parts) - set(own_parts):
        raise ValueError("the study names a part that this site does not allow")
    anything: dict[str, Rule] = {"*": Rule()}
    file = PolicyFile(
        site=site,
        studies={study.name: StudyEntry(manifest="the study's vocabulary", sha256="0" * 64)},
        stages={message.partition(".")[2]: StageRules() for message in messages()},
        metrics=anything,
        study=anything,
        integers=anything,
        limits=Limits(message_mb=1e6, day_mb=1e9),
        cohort=Cohort(minimum=1),
        release=Release(stages=()),
        bundles=Bundles(any=True),
    )
    manifest = Manifest.model_construct(exchanges=Vocabulary(study))
    return Policy(file, {study.name: manifest})

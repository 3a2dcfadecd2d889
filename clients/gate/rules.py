"""A policy as its file says it: tables and rules, each checked as it is read."""

import hashlib
import json
import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

SHOWN = 60
"""Letters of a foreign word that a reason shows."""


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)


class Rule(_Table):
    """What a value may be: a whole number or not, a range, or one of a list."""

    kind: Literal["count", "number"] | None = Field(
        default=None, description="count: whole numbers only"
    )
    low: float | None = Field(default=None, description="smallest")
    high: float | None = Field(default=None, description="largest")
    values: tuple[bool | int | float | str, ...] | None = Field(
        default=None, description="the only ones"
    )
    text: str | None = Field(
        default=None, description="regular expression that a whole text must match"
    )

    @field_validator("text")
    @classmethod
    def _compiles(cls, text: str | None) -> str | None:
        try:
            re.compile(text or "")
        except re.error as error:
            raise ValueError(f"is no regular expression ({error})") from None
        return text

    @property
    def demands(self) -> bool:
        """Whether it says what a value must be; `values = []` allows a key and no value."""
        return bool(self.values) or (self.kind, self.low, self.high, self.text) != (None,) * 4

    def problem(self, value: object) -> str:
        """Why a value breaks the rule; empty where it does not."""
        if self.values is not None and not any(
            value == allowed and isinstance(value, bool) == isinstance(allowed, bool)
            for allowed in self.values
        ):
            return f"{short(value)} is none of {list(self.values)}"
        if self.text is not None and not (
            isinstance(value, str) and re.fullmatch(self.text, value)
        ):
            return f"{short(value)} is not of the form {self.text}"
        if self.kind is None and self.low is None and self.high is None:
            return ""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return f"{short(value)} is no number"
        if self.kind == "count" and not isinstance(value, int):
            return f"{value} is no whole number"
        if self.low is not None and value < self.low:
            return f"{value} is below {self.low:g}"
        if self.high is not None and value > self.high:
            return f"{value} is above {self.high:g}"
        return ""


Rules = dict[str, Rule]
"""Rules by shell pattern; every pattern that matches must hold, and one must match."""


class StudyEntry(_Table):
    """A study that the site takes part in."""

    manifest: str = Field(description="file with its manifest, beside the policy")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of that file")
    digest: str | None = Field(
        default=None, pattern=r"^[0-9a-f]{64}$",
        description="of the study itself, as its invitation says; no other of its name passes",
    )  # fmt: skip


class StageRules(_Table):
    """What holds for one stage only. A stage without a table is refused."""

    message_mb: float | None = Field(
        default=None, gt=0, description="instead of [limits] message_mb"
    )
    update_norm: float | None = Field(
        default=None, gt=0, description="|weights out - weights in| at most this times |weights in|"
    )
    metrics: Rules = Field(default={}, description="beside [metrics]")


class Limits(_Table):
    """Bytes that may leave."""

    message_mb: float = Field(default=500.0, gt=0, description="one reply, in MB (10^6 bytes)")
    day_mb: float = Field(default=20_000.0, gt=0, description="a day (UTC), in MB")


class Cohort(_Table):
    """No answer about fewer people than this."""

    minimum: int = Field(default=5, ge=1, description="no figure of fewer people than this leaves")
    counts: tuple[str, ...] = Field(
        default=(
            "patients",
            "train_patients",
            "test_patients",
            "*.n_patients",
            "val_patients",
            "*~*.n",
            "*.versus.n",
        ),
        description="metrics that count people (or what stands for them): shell patterns",
    )


class Normalisation(_Table):
    """Running means and variances of BatchNorm: averages over the site's images."""

    statistics: bool = Field(default=True, description="whether they may leave")
    names: tuple[str, ...] = Field(
        default=("*running_mean", "*running_var", "*num_batches_tracked"),
        description="shell patterns",
    )


class Release(_Table):
    """Weights that can reproduce images leave only with the measured share that do."""

    stages: tuple[str, ...] = Field(default=("diffusion",), description="whose weights these are")
    metrics: tuple[str, ...] = Field(
        default=("memorisation_features", "memorisation_correlation"),
        description="all must be there",
    )
    threshold: float = Field(default=0.10, gt=0, le=1, description="each must be below this")


class Bundles(_Table):
    """Code that may run here."""

    approved: tuple[str, ...] = Field(
        default=(), description="SHA-256 of bundles; or use gate approve"
    )
    any: bool = Field(
        default=False, description="true only in a simulation: the code is not checked"
    )


class PolicyFile(_Table):
    """A site's policy as its file says it."""

    site: str = Field(min_length=1, description="the site's name in its studies")
    studies: dict[str, StudyEntry] = Field(description="by the study's name")
    stages: dict[str, StageRules] = Field(description="stages that the site takes part in")
    metrics: Rules = Field(description="every scalar that may leave, by pattern")
    study: Rules = Field(description="every key of a study, by pattern, and what it may be")
    integers: Rules = Field(default={}, description="values in tensors of whole numbers, by name")
    limits: Limits = Limits()
    cohort: Cohort = Cohort()
    normalisation: Normalisation = Normalisation()
    release: Release = Release()
    bundles: Bundles = Bundles()

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of what the file says, however it is laid out."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def short(value: object) -> str:
    """A foreign value, shown in a reason."""
    text = repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."

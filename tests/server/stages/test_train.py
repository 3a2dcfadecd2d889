"""Who takes part in a training on selected images."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from common.config.load import parse_study
from common.plan import Training, make_plan
from server.checkpoint import RunFolder
from server.context import ServerContext, StudyStopped
from server.stages.train import participants
from tests.clients.chosen import TABLES
from tests.clients.world import merged

STUDY = parse_study(merged(TABLES, {"arms": ["ensemble", "ensemble_selected", "entropy"]}), "x")
PLAN = make_plan(STUDY)


def training_of(stage: str) -> Training:
    return next(t for t in PLAN.trainings.values() if t.stage == stage and t.budget == 0.5)


def context_of(folder: Path, counts: dict[str, dict[str, int]]) -> ServerContext:
    run = RunFolder(folder)
    run.write_state("annotate", {"counts": counts, "closed": [], "traffic": {}})
    return cast(ServerContext, SimpleNamespace(run=run, study=STUDY, plan=PLAN, gone={}, away={}))


def counts_of(annotated: int, outlined: int | None) -> dict[str, int]:
    counts = {"entropy.50.annotated": annotated, "entropy.50.wanted": 9}
    return counts if outlined is None else counts | {"entropy.50.outlined": outlined}


def test_a_site_without_outlines_holds_nobody_up(tmp_path: Path) -> None:
    context = context_of(tmp_path, {"bo": counts_of(9, 1), "cy": counts_of(9, 2)})
    assert participants(context, training_of("finetune_selected")) == ("cy",)
    assert participants(context, training_of("classify")) == ("bo", "cy")


def test_where_nobody_outlined_it_says_what_to_do(tmp_path: Path) -> None:
    context = context_of(tmp_path, {"bo": counts_of(9, 0), "cy": counts_of(9, 1)})
    with pytest.raises(StudyStopped, match="no site has 2 outlined images of this selection; out"):
        participants(context, training_of("finetune_selected"))
    few = context_of(tmp_path, {"bo": counts_of(1, 0), "cy": counts_of(0, 0)})
    with pytest.raises(StudyStopped, match=r"no site has 2 annotated images.*a larger budget"):
        participants(few, training_of("classify"))


def test_a_run_that_was_closed_before_outlines_were_counted(tmp_path: Path) -> None:
    context = context_of(tmp_path, {"bo": counts_of(2, None), "cy": counts_of(1, None)})
    assert participants(context, training_of("finetune_selected")) == ("bo",)


def test_other_trainings_ask_nobody_how_far_experts_are(tmp_path: Path) -> None:
    training: Any = dataclasses.replace(training_of("classify"), selection="")
    assert participants(context_of(tmp_path, {}), training) == training.participants

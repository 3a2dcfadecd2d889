"""docs/formats.md says what common/formats.py is: every field, every example."""

import json
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from clients.annotations import LABEL_COLUMNS, WORKLIST_COLUMNS
from clients.evaluation import TABLE_COLUMNS
from common import formats

TEXT = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^##+ (.+?)\n(.*?)(?=^##|\Z)", TEXT, re.DOTALL | re.MULTILINE))
MODELS: dict[str, type[BaseModel]] = {
    **{
        str(event.model_fields["event"].annotation).split("'")[1]: event for event in formats.EVENTS
    },
    "results.json": formats.Results,
    "Arm": formats.ArmResult,
    "Site's result": formats.SiteResult,
    "Summary": formats.Summary,
    "Mean over targets": formats.TargetSummary,
    "Comparison": formats.Comparison,
    "Selection": formats.SelectionResults,
    "Classifier": formats.CellResult,
    "Interval": formats.Interval,
    "What an arm chose": formats.SelectedResult,
    "Reconstruction": formats.ReconstructionResult,
    "Traffic": formats.Traffic,
    "epochs.jsonl": formats.EpochLine,
}


def named(section: str) -> list[str]:
    """First column of the section's first table; what fields hold may have tables of its own."""
    table = re.search(r"(?:^\|.*\n)+", SECTIONS[section], re.MULTILINE)
    return re.findall(r"^\| `([a-z0-9_]+)` \|", table.group() if table else "", re.MULTILINE)


def example(section: str) -> str:
    (found,) = re.findall(r"```json\n(.*?)```", SECTIONS[section], re.DOTALL)
    return str(found)


@pytest.mark.parametrize("section", MODELS)
def test_every_field_is_named_and_no_other(section: str) -> None:
    fields = [name for name in MODELS[section].model_fields if name != "event"]
    assert named(section) == fields


@pytest.mark.parametrize("section", [s for s in MODELS if "```json" in SECTIONS[s]])
def test_every_example_is_valid_and_complete(section: str) -> None:
    text, model = example(section), MODELS[section]
    parsed = model.model_validate_json(text)
    assert set(json.loads(text)) == set(model.model_fields)
    if section not in ("results.json", "epochs.jsonl"):
        assert formats.parse_event(text.replace("\n", " ")) == parsed


def test_every_event_has_an_example() -> None:
    assert all("```json" in SECTIONS[name] for name in list(MODELS)[: len(formats.EVENTS)])


def test_nested_fields_are_named_in_words() -> None:
    for section, model in (
        ("study", formats.TrainingPlan),
        ("study", formats.SelectionPlan),
        ("Classifier", formats.PairedResult),
        ("Comparison", formats.PairedResult),
        ("Traffic", formats.Bytes),
    ):
        assert all(f"`{name}`" in SECTIONS[section] for name in model.model_fields)


def test_the_columns_of_the_scores() -> None:
    assert named("scores.csv") == list(TABLE_COLUMNS)


def test_the_columns_of_what_experts_are_asked_and_say() -> None:
    assert named("worklist.csv") == list(WORKLIST_COLUMNS)
    assert named("labels.csv") == list(LABEL_COLUMNS)

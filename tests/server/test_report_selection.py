import json
import re
from pathlib import Path

import numpy as np
import pytest

from common.config.load import load_study
from common.formats import Interval, dump_line, read_events, read_results
from server.report import write_report
from server.report_diagram import diagrams
from server.report_selection import (
    Cells,
    Row,
    ablations,
    averaged,
    choices,
    health,
    ranked,
    table,
    waited,
    waiting_seconds,
)
from server.report_views import sort_out
from tests.invented import CONFIGS, breast, invented_run
from tests.server.test_report import Page


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two targets, three arms and an ablation at two budgets, no segmentation."""
    arms = ["dual", "random", "coreset", "full", "source_only", "dual_k2", "frozen"]
    study = breast(arms=arms, **{"select.budgets": [0.2, 0.5]})
    return invented_run(tmp_path_factory.mktemp("run") / "breast", study)


def words_of(run: Path) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", write_report(run).read_text()))


def test_one_file_that_fetches_nothing_and_holds_no_pixel(run: Path) -> None:
    text = write_report(run).read_text()
    page = Page(text)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert all(link.startswith("#") for link in page.links)
    assert not {"script", "img", "image", "iframe", "link", "canvas"} & set(page.tags)
    assert "data:" not in text
    assert "fe01" not in text.replace(json.loads((run / "results.json").read_text())["digest"], "")
    assert write_report(run).read_text() == text


def test_what_a_reader_looks_for_is_there(run: Path) -> None:
    said = words_of(run)
    found = read_results(run / "results.json").selection
    assert found is not None
    cells = Cells(found)
    lead = cells.average("dual", 0.2, "balanced_accuracy")
    assert lead is not None
    assert f"a balanced accuracy of {lead.mean:.3f}" in said
    for cell in found.cells:
        assert f"{cell.pooled['auroc'].mean:.3f}" in said
    assert "Who always says benign reaches an accuracy of" in said
    assert "Memorisation check" in said
    assert "per site, by quota" in said
    assert "k = 2" in said
    assert "60 of 68 (dual, 20 %)" in said
    assert "No target site has reference masks" not in said
    assert "Segmentation" not in said


def test_a_choice_that_is_not_the_exact_one_is_said_to_be_none(tmp_path: Path) -> None:
    run = invented_run(tmp_path / "cohort", breast(arms=["dual", "random"]))
    said = words_of(run)
    assert "were due" not in said
    assert "a minimum cohort" not in said
    results = json.loads((run / "results.json").read_text())
    for chosen in results["selection"]["selected"]:
        chosen["cohort"] = dict.fromkeys(chosen["pool"], 5)
        chosen["due"] = {name: sum(of.values()) for name, of in chosen["selected"].items()}
    leading = results["selection"]["selected"][0]
    leading["due"]["20"] -= 3
    (run / "results.json").write_text(json.dumps(results))
    said = words_of(run)
    due = leading["due"]["20"]
    assert said.count("were due") == 1
    assert f"{due + 3} where {due} were due" in said
    assert "that choice had a minimum cohort and is itself not exactly the one" in said


def test_both_halves_in_one_report(tmp_path: Path) -> None:
    study = breast(arms=["ensemble", "lower", "dual", "random"])
    run = invented_run(tmp_path / "both", study)
    log = sort_out(read_events(run / "metrics.jsonl"))
    assert log.study is not None
    first, second = diagrams(log.study, log)
    assert (first.title, second.title) == ("Segmentation", "Selection and classification")
    stages = ["_".join(column.words) for column in second.columns]
    assert stages == ["source_classifier", "diffusion", "reconstruct", "sphere", "score", "select",
                      "annotate", "classify"]  # fmt: skip
    assert [len(column.dots) for column in second.columns] == [1, 1, 3, 2, 2, 2, 2, 2]
    Page(write_report(run).read_text())


def test_a_study_under_way_shows_what_there_is(tmp_path: Path) -> None:
    run = invented_run(tmp_path / "half", breast(arms=["dual", "random"]), finished=False)
    said = words_of(run)
    assert "under way" in said
    assert "What annotation buys" not in said


def test_one_budget_and_no_bound_is_told_in_dots(tmp_path: Path) -> None:
    run = invented_run(tmp_path / "demo", load_study(CONFIGS / "demo_al.toml"))
    text = write_report(run).read_text()
    Page(text)
    assert "at a budget of 20 %" in text
    assert "Each panel sets" not in text


def test_a_study_where_nothing_is_redrawn_or_selected(tmp_path: Path) -> None:
    run = invented_run(tmp_path / "bound", breast(arms=["full", "source_only"]))
    said = words_of(run)
    assert "What annotation buys" in said
    assert "Reconstruction in" not in said
    Page(write_report(run).read_text())


def test_the_average_has_the_widest_interval_that_it_can_have() -> None:
    one, other = (
        Interval(mean=0.6, ci_low=0.5, ci_high=0.7),
        Interval(mean=0.8, ci_low=0.6, ci_high=1.0),
    )
    found = averaged([one, other])
    assert found is not None
    assert (found.mean, found.ci_low, found.ci_high) == pytest.approx((0.7, 0.55, 0.85))
    assert averaged([one, None]) is None
    endless = averaged([one, Interval(mean=0.8)])
    assert endless is not None
    assert endless.ci_low is None
    # Two models on the same images, errors equal: the spread of their mean is their own.
    rng = np.random.default_rng(0)
    errors = rng.normal(size=10_000)
    assert np.std((errors + 2 * errors) / 2) == pytest.approx(
        (np.std(errors) + np.std(2 * errors)) / 2
    )


def test_the_best_of_a_column_is_what_a_reader_sees_as_the_best() -> None:
    def row(*means: float | None) -> Row:
        values = [None if m is None else Interval(mean=m) for m in means]
        return Row("arm", "arm", values, None, [])

    group = ranked("20 %", "", [row(0.7001, 0.1), row(0.6999, None), row(0.65, 0.3), row(0.1, 0.2)])
    assert group.best == {0: [0, 1], 1: [2]}
    assert group.second == {0: [2], 1: [3]}
    assert ranked("", "", [row(0.7)]).best == {}


def test_tables_have_the_papers_rows(run: Path) -> None:
    found = read_results(run / "results.json").selection
    assert found is not None
    cells = Cells(found)
    groups = table(cells, "accuracy")
    assert [[row.arm for row in group.rows] for group in groups] == [
        ["full"], ["source_only"], *[["dual", "random", "coreset"]] * 2,
    ]  # fmt: skip
    assert groups[2].note == "182 of 910 images annotated"
    components, clusters = ablations(cells, "accuracy")
    assert [row.arm for row in components.rows] == ["frozen", "dual"]
    assert [row.words for row in clusters.rows] == ["k = 2", "k as the study has it"]
    main, more = choices(found).values()
    assert [c.chosen.arm for c in main] == ["dual", "random", "coreset"]
    assert [c.chosen.arm for c in more] == ["dual_k2", "frozen"]
    assert list(main[0].budgets) == ["20\u202f%", "50\u202f%"]
    assert len(more[0].budgets) == 1


def test_arms_of_one_embedding_are_told_once(run: Path) -> None:
    found = read_results(run / "results.json").selection
    assert found is not None
    (one,) = health(found.selected, ["logiq_5", "logiq_7"])
    assert one.arms == ["dual", "dual_k2", "frozen"]
    assert one.sites[0] is not None
    assert one.sites[0] == pytest.approx((75.06, 14.2), abs=0.01)


def test_waiting_is_told_from_its_events(run: Path) -> None:
    events = read_events(run / "metrics.jsonl")
    log = sort_out(events)
    (first, _) = waited(log.waiting)
    assert (first.first, first.last, first.looks) == (
        "0 of 68 (dual, 20 %)", "60 of 68 (dual, 20 %)", 3,
    )  # fmt: skip
    assert waiting_seconds(events) == 180.0
    assert waiting_seconds([]) == 0.0


def test_names_are_escaped(tmp_path: Path) -> None:
    run = invented_run(tmp_path / "run", breast(arms=["dual", "random"]))
    line = {"event": "waiting", "stage": "annotate", "sites": {"logiq_5": "<b>"}, "time": 1.0}
    with (run / "metrics.jsonl").open("a") as file:
        file.write(dump_line(line) + "\n")
    assert "<td><b></td>" not in write_report(run).read_text()

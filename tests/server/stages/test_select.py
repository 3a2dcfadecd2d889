"""Score and select over three targets: the choice of pooling, whatever is killed on the way."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from clients.annotations import read_worklist
from clients.embeddings import pool_digests
from clients.request import Request
from clients.site import open_site, training_rows
from clients.stages.select import tie_digest
from common.config.selection import budget_name
from common.plan import Selection, make_plan
from common.seeds import seed_of
from common.selection import dual_score, select
from common.selection.cut import tie_words
from server.results_selection import Chosen, build_selection
from server.stages import score
from server.stages import select as select_stage
from tests.server.stages.pools import POOLS, Context, Killed, Pools, redrawn, study_of

PLAIN = ("dual", "dual_far", "contrast")


def run(pools: Pools, context: Context) -> None:
    for selection in context.plan.selections.values():
        if selection.strategy == "dual":
            score.run(context, selection)
        select_stage.run(context, selection)


@pytest.fixture
def pools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pools:
    redrawn(monkeypatch)
    return Pools(tmp_path, study_of())


def pooled(pools: Pools, selection: Selection) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Scores, tie words and ids of all sites' images, as one place would have them."""
    study = pools.study.for_sites()
    z: dict[str, list[np.ndarray]] = {"images": [], "reconstructions": []}
    ids, digests = [], []
    for name, site in pools.sites.items():
        data = open_site(site, study)
        rows = training_rows(data, "select")
        ids += [data.rows[row].id for row in rows]
        digests += pool_digests(Request(site, study, make_plan(study), "score", selection.arm))
        for what, parts in z.items():
            path = pools.root / "sites" / name / "embeddings" / selection.embedding / f"{what}.npy"
            if path.exists():
                parts.append(np.load(path))
    settings = selection.settings
    scores = dual_score(
        np.concatenate(z["images"]),
        np.concatenate(z["reconstructions"]) if selection.reconstructed else None,
        clusters=settings.clusters,
        omega=settings.omega,
        uncertainty=settings.uncertainty,
        combine=settings.combine,
        representative=settings.representative,
        restarts=settings.restarts,
        iterations=settings.iterations,
        metric=selection.metric,
        seed=seed_of(pools.study.seed, "clusters", selection.embedding),
    ).score
    return scores, tie_words(tie_digest(study), digests), ids


def test_the_worklists_are_those_of_pooling_and_the_server_knows_counts_alone(
    pools: Pools,
) -> None:
    context = pools.context()
    run(pools, context)
    pool = {site: len(open_rows(pools, site)) for site in POOLS}
    for arm in PLAIN:
        selection = context.plan.selections[arm]
        scores, ties, ids = pooled(pools, selection)
        for budget in selection.budgets:
            wanted = [ids[row] for row in select(scores, budget, ties=ties)]
            found = [
                choice.id
                for site in pools.sites.values()
                for choice in read_worklist(site.folder, arm, budget)
            ]
            assert sorted(found) == sorted(wanted), (arm, budget)
    for arm, selection in context.plan.selections.items():
        outcome = select_stage.outcome(context, selection)
        assert outcome["pool"] == pool
        for budget in selection.budgets:
            name = budget_name(budget)
            sizes = {
                site: len(read_worklist(settings.folder, arm, budget))
                for site, settings in pools.sites.items()
            }
            assert outcome["selected"][name] == sizes
            if outcome["words"] == "one threshold over all sites" and arm != "dual_cohort":
                assert sum(sizes.values()) == -(-round(1000 * budget) * sum(pool.values()) // 1000)
            elif outcome["words"].startswith("per site"):
                assert sizes == {s: -(-round(1000 * budget) * n // 1000) for s, n in pool.items()}
    told = (pools.root / "run").rglob("*.json")
    text = "".join(path.read_text() for path in told)
    assert "bo-0" not in text
    assert ".png" not in text
    assert select_stage.outcome(context, context.plan.selections["dual"])["overlap"] == {
        "20": 1.0, "50": 1.0
    }  # fmt: skip
    near = select_stage.outcome(context, context.plan.selections["dual_cohort"])["overlap"]["50"]
    assert 0.3 < near <= 1
    assert set(score.traffic(context)) == set(POOLS) == set(select_stage.traffic(context))


def open_rows(pools: Pools, site: str) -> np.ndarray:
    return training_rows(open_site(pools.sites[site], pools.study.for_sites()), "select")


def test_a_worklist_says_why_in_a_sentence(pools: Pools) -> None:
    context = pools.context()
    for arm in ("dual", "random", "coreset", "full"):
        selection = context.plan.selections[arm]
        if selection.strategy == "dual":
            score.run(context, selection)
        select_stage.run(context, selection)
    site = pools.sites["bo"].folder
    choices = read_worklist(site, "dual", 0.5)
    assert [choice.rank for choice in choices] == list(range(1, len(choices) + 1))
    assert all(choice.uncertainty is not None and choice.distance for choice in choices)
    assert choices[0].reason.startswith("Between two groups of images, more so than ")
    assert "nearer to its redrawing" in choices[0].reason
    (random, *_) = read_worklist(site, "random", 0.5)
    assert (random.reason, random.uncertainty) == ("Drawn at random.", None)
    assert read_worklist(site, "coreset", 0.5)[0].reason.startswith("Far from")
    assert len(read_worklist(site, "full", 1.0)) == len(open_rows(pools, "bo"))


def test_a_kill_at_any_question_resumes_to_the_same_worklists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    redrawn(monkeypatch)
    study = study_of(
        arms=["dual_cohort", "coreset"], score={"restarts": 2, "iterations": 3, "clusters": 2}
    )
    whole = Pools(tmp_path, study)
    run(whole, whole.context())
    wanted, asked = whole.worklists(), whole.exchange.asked
    kinds = [(stage, arm, step) for stage, arm, step, _ in asked]
    told = {path.name: path.read_text() for path in (tmp_path / "run").rglob("select/*.json")}
    for kind in dict.fromkeys(kinds):
        for folder in ("run", "sites"):
            shutil.rmtree(tmp_path / folder)
        pools = Pools(tmp_path, study)
        with pytest.raises(Killed):  # at the second site that is asked
            run(pools, pools.context(kinds.index(kind) + 1))
        run(pools, pools.context())
        assert pools.worklists() == wanted, kind
        for path in (tmp_path / "run").rglob("select/*.json"):
            before, now = (text.partition('"traffic"')[0] for text in
                           (told[path.name], path.read_text()))  # fmt: skip
            assert now == before, kind


def test_arms_share_embeddings_and_clusterings(pools: Pools) -> None:
    run(pools, pools.context())
    asked = [(arm, step) for stage, arm, step, _ in pools.exchange.asked if stage == "score"]
    embedded = {arm for arm, step in asked if step == "embed"}
    clustered = {arm for arm, step in asked if step == "cluster"}
    assert embedded == {"dual", "contrast"}
    assert clustered == {"dual", "dual_cohort", "contrast"}
    run(pools, pools.context())
    assert pools.exchange.asked == []


def test_a_site_may_insist_on_a_cohort_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    redrawn(monkeypatch)
    pools = Pools(tmp_path, study_of(arms=["dual"]), min_cohort=5)
    context = pools.context()
    run(pools, context)
    (selection,) = context.plan.selections.values()
    state = context.run.read_state("score/cells/dual")["histograms"]
    for site, both in state.items():
        for cells, told in both:
            assert len(cells) == len(told)
            assert min(told, default=5) >= 5
            assert sum(told) == (0 if site == "di" else len(open_rows(pools, site)))
    assert score.histograms(context, selection).sum() > 0


def chosen_by(pools: Pools, arm: str, budget: float) -> set[str]:
    return {
        choice.id
        for site in pools.sites.values()
        for choice in read_worklist(site.folder, arm, budget)
    }


def test_the_server_knows_which_choices_were_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    redrawn(monkeypatch)
    arms = ["dual", "dual_cohort", "random", "full"]
    told = {}
    found = {}
    for name, cohort in (("exact", 0), ("one", 1), ("five", 5)):
        pools = Pools(tmp_path / name, study_of(arms=arms), min_cohort=cohort)
        context = pools.context()
        run(pools, context)
        found[name] = {budget: chosen_by(pools, "dual", budget) for budget in (0.2, 0.5)}
        told[name] = {
            arm: Chosen(**select_stage.outcome(context, selection))
            for arm, selection in context.plan.selections.items()
        }
        for arm, choice in told[name].items():
            least = max(cohort, 5 if arm == "dual_cohort" else 0)
            assert choice.cohort == dict.fromkeys(POOLS, least)
            assert (sum(choice.regrouped.values()) > 0) == (arm.startswith("dual") and least > 1)
            assert all(images == 0 or images >= 5 for images in choice.regrouped.values())
            for budget, due in choice.due.items():
                assert due == -(-int(float(budget)) * sum(choice.pool.values()) // 100)
    assert found["one"] == found["exact"]  # an image is no cohort
    assert found["five"] != found["exact"]

    def notes(name: str) -> str:
        return "\n".join(
            build_selection(context.plan, ("a", "b"), classified={}, chosen=told[name])[1]
        )

    shares = [
        len(found["exact"][b] & found["five"][b]) / len(found["exact"][b]) for b in (0.2, 0.5)
    ]
    assert (
        f"It shares {shares[0]:.1%} at 20 %, {shares[1]:.1%} at 50 % of the exact choice, dual's."
    ) in notes("exact")
    # At sites with a cohort of their own both arms choose the same, which is no exact choice.
    assert told["five"]["dual_cohort"].overlap["20"] == 1
    assert "of the exact choice" not in notes("five")
    assert (
        "dual, dual_cohort and random: with a minimum cohort (images: bo 5, cy 5, di 5)"
        in notes("five")
    )
    assert "di had fewer images than the cohort and told nothing of them" in notes("five")

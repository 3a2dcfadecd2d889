"""The bench at a size that takes a second: what it promises to say, and that it measures work."""

import json

import numpy as np
import pytest

from common.selection import dual_score, select
from common.selection.cut import tie_words
from scripts.bench import selection
from scripts.bench.command import Bench, records_of
from scripts.bench.selection import ALPHA, CLUSTERS, ITERATIONS, SITES, choose


def test_the_records_tell_time_memory_and_the_choice() -> None:
    records = list(
        selection.run(
            images=(800, 1600),
            dimensions=16,
            restarts=2,
            picks=2,
            cohort_images=(200,),
            studies=1,
            fresh=False,
        )
    )
    assert [record["name"] for record in records] == [
        "selection 800, 1 restart",
        "selection 1600, 1 restart",
        "selection 800, 2 restarts",
        "selection 1600, 2 restarts",
        "selection 800 against k-center",
        "selection 200 with a minimum cohort of 5",
    ]
    for record in records[:4]:
        assert float(record["ours"]) == pytest.approx(
            sum(float(record[phase]) for phase in selection.PHASES)
        )
        assert 0 < float(record["inertia"]) < 2
        assert 1 <= int(record["iterations"]) <= ITERATIONS
    assert "extrapolated from 2 of 160 picks" in str(records[4]["reference_is"])
    assert 0.1 < float(records[5]["overlap_20_least"]) <= float(records[5]["overlap_20"]) <= 1
    assert 0.1 < float(records[5]["overlap_20_other_seed"]) <= 1
    json.dumps(records)


def test_what_is_measured_is_the_choice_of_pooling() -> None:
    sites = selection._sites(1001, 16, 3)
    assert len(sites) == SITES
    z, partners = selection._embeddings(1001, 16, 3)
    found = choose(sites, restarts=2, seed=7)
    scores = dual_score(
        z, partners, clusters=CLUSTERS, restarts=2, iterations=ITERATIONS, seed=7
    ).score
    digests = [f"{site.name} {row}" for site in sites for row in range(len(site.images))]
    places = [(site.name, row) for site in sites for row in range(len(site.images))]
    wanted = select(scores, ALPHA, ties=tie_words("bench", digests))
    assert found.chosen == {places[row] for row in wanted}
    assert np.abs(sites[0].images).max() > 1  # rounded where it lay


def test_it_has_a_name() -> None:
    assert Bench("selection") is Bench.selection
    assert records_of(Bench.selection, 1, 0) is not None  # nothing runs before it is read

"""Which rows are trained on and judged, and what is said of a site with too few."""

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from clients.data.site import SiteData
from clients.settings import SiteSettings
from clients.site import check_batches, judged_rows, training_rows
from common.config.load import parse_study
from common.errors import InputError
from common.plan import make_plan
from tests.clients.world import TINY, merged


def _data(has_mask: list[int], train: int = 6, val: int = 2) -> SiteData:
    count = len(has_mask)
    split = SimpleNamespace(
        train=np.arange(train),
        val=np.arange(train, train + val),
        test=np.arange(train + val, count),
    )
    return cast(SiteData, SimpleNamespace(has_mask=np.array(has_mask, bool), split=split))


def test_only_outlined_test_images_are_judged_where_some_are() -> None:
    assert judged_rows(_data([1] * 8 + [0, 1, 0, 1])).tolist() == [9, 11]
    assert judged_rows(_data([1] * 8 + [0, 0, 0, 0])).tolist() == [8, 9, 10, 11]


def test_self_supervision_takes_all_but_the_test_rows() -> None:
    data = _data([0] * 12)
    assert training_rows(data, "mim").tolist() == list(range(8))
    assert training_rows(data, "upper").tolist() == list(range(6))


def test_a_sites_own_cohort_and_too_many_clusters_are_told_at_enrolment() -> None:
    tables = {"arms": ["dual"], "score": {"clusters": 13}, "compute": {"batch": 2}}
    study = parse_study(merged(TINY, tables), "tiny")
    for cohort, told in ((0, False), (1, False), (5, True)):
        site = cast(SiteSettings, SimpleNamespace(name="bo", role="target", cohort=cohort))
        try:
            check_batches(_data([1] * 12), site, study, [])
            problems = []
        except InputError as error:
            problems = error.problems
        assert any(
            line.startswith("site bo: score.clusters: 13, but with a minimum cohort at most 12")
            for line in problems
        ) == told  # fmt: skip


def test_a_source_without_validation_masks_cannot_judge_an_adaptation() -> None:
    study = parse_study(merged(TINY, {"arms": ["lower_adapted"], "compute": {"batch": 2}}), "tiny")
    site = cast(SiteSettings, SimpleNamespace(name="ada", role="source"))
    with pytest.raises(InputError) as caught:
        check_batches(
            _data([1] * 6 + [0] * 6), site, study, list(make_plan(study).trainings.values())
        )
    assert "site ada: no validation image has a mask (stage adapt)" in caught.value.problems

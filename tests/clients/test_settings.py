"""A site's own settings: the cohort that it insists on."""

from pathlib import Path

import pytest

from clients.join import SITE_FILE, write_site_file
from clients.settings import SiteSettings
from clients.site_file import load_site
from common.config.data import DataSpec


@pytest.mark.parametrize(
    ("consortium", "own", "cohort"),
    [(True, None, 5), (False, None, 0), (True, 0, 0), (True, 12, 12), (False, 3, 3)],
)
def test_a_hospital_in_a_consortium_insists_on_five_unless_it_says_otherwise(
    tmp_path: Path, consortium: bool, own: int | None, cohort: int
) -> None:
    site = SiteSettings(
        name="ada", role="target", data=DataSpec(folder="us"), data_root=tmp_path,
        folder=tmp_path / "work", cache=tmp_path / "cache", consortium=consortium, min_cohort=own,
    )  # fmt: skip
    assert site.cohort == cohort
    assert SiteSettings.model_validate_json(site.model_dump_json()).cohort == cohort


def test_its_site_file_may_say_so(tmp_path: Path) -> None:
    for further, cohort in (({}, 5), ({"min_cohort": "0"}, 0)):
        write_site_file(
            tmp_path, name="ada", role="target", data=tmp_path / "us", address="center:9443",
            further=further,
        )  # fmt: skip
        site = load_site(tmp_path / SITE_FILE).site
        assert site.model_copy(update={"consortium": True}).cohort == cohort

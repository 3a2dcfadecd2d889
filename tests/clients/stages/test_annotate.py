"""annotate at a site: the manifest plays the experts, or their file is only counted."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from clients.annotations import Label, add_labels, annotated, read_labels, utc
from clients.asked import read_asked
from clients.request import Request
from clients.settings import SiteSettings
from clients.stages.annotate import READER, run
from clients.words import Decision, Outline, add_decision, add_outlines, mask_file
from common.config.load import parse_study
from common.errors import InputError
from common.plan import make_plan
from common.wire.crossing import crossing
from common.wire.payload import check_metrics
from tests.clients.chosen import IDS, TABLES, choose_all, digest_of, site_of, study_of
from tests.clients.world import merged


def request_of(site: SiteSettings, labels: str = "hidden", step: str = "") -> Request:
    study = study_of(labels=labels)
    return Request(site, study, make_plan(study), "annotate", step=step)


def counts_of(request: Request) -> dict[str, float | int]:
    """A stage's answer, as the wire would let it pass."""
    metrics = dict(run(request).metrics)
    spec = crossing(request.study, request.plan, "query", "annotate", "", request.step)
    return check_metrics(metrics, spec.metrics, complete=spec.complete)


@pytest.fixture
def site(tmp_path: Path) -> SiteSettings:
    found = site_of(tmp_path)
    choose_all(found)
    return found


def test_the_manifest_plays_the_experts(site: SiteSettings) -> None:
    counts = counts_of(request_of(site))
    assert counts == {
        "entropy.20.wanted": 2, "entropy.20.annotated": 2,
        "entropy.50.wanted": 6, "entropy.50.annotated": 6,
        "random.20.wanted": 2, "random.20.annotated": 2,
        "random.50.wanted": 6, "random.50.annotated": 6,
    }  # fmt: skip
    labels = read_labels(site.folder)
    assert sorted(label.id for label in labels) == IDS[:8]
    assert {label.reader for label in labels} == {READER}
    assert {label.time for label in labels} == {"1970-01-01T00:00:00Z"}
    assert all(label.image_sha256 == digest_of(site, label.id) for label in labels)
    assert annotated(site.folder, "entropy", 0.2) == (["i02", "i03"], ["benign", "malignant"])


def test_a_repeated_request_changes_nothing(site: SiteSettings) -> None:
    first = counts_of(request_of(site))
    file = (site.folder / "labels.csv").read_bytes()
    assert counts_of(request_of(site)) == first
    assert (site.folder / "labels.csv").read_bytes() == file


def test_a_readers_word_is_not_overridden(site: SiteSettings) -> None:
    own = Label("i02", "malignant", "Dr A", utc("2027-03-01"), digest_of(site, "i02"))
    add_labels(site.folder, [own])
    counts_of(request_of(site))
    assert annotated(site.folder, "entropy", 0.2)[1] == ["malignant", "malignant"]
    assert [x.reader for x in read_labels(site.folder) if x.id == "i02"] == ["Dr A"]


def test_a_label_outside_the_study_is_none(tmp_path: Path) -> None:
    site = site_of(tmp_path, labels={"i02": "", "i00": "normal"})
    choose_all(site)
    counts = counts_of(request_of(site))
    assert (counts["entropy.20.annotated"], counts["entropy.20.wanted"]) == (1, 2)
    assert (counts["random.50.annotated"], counts["random.50.wanted"]) == (5, 6)


def test_a_file_is_only_counted(site: SiteSettings) -> None:
    """No label of the manifest is read."""
    assert counts_of(request_of(site, "file"))["entropy.50.annotated"] == 0
    assert not (site.folder / "labels.csv").exists()
    label = Label("i04", "benign", "Dr A", utc("2027-03-01"), digest_of(site, "i04"))
    add_labels(site.folder, [label])
    counts = counts_of(request_of(site, "file"))
    assert counts["entropy.50.annotated"] == counts["random.50.annotated"] == 1
    assert counts["entropy.20.annotated"] == 0


def test_closing_settles_the_labels(site: SiteSettings) -> None:
    digest = digest_of(site, "i04")
    add_labels(site.folder, [Label("i04", "benign", "Dr A", utc("2027-03-01"), digest)])
    closed = counts_of(request_of(site, "file", "close"))
    add_labels(
        site.folder, [Label("i05", "benign", "A", utc("2027-03-02"), digest_of(site, "i05"))]
    )
    assert counts_of(request_of(site, "file", "close")) == closed
    assert annotated(site.folder, "entropy", 0.5) == (["i04"], ["benign"])


def test_an_image_changed_after_it_was_annotated(site: SiteSettings) -> None:
    add_labels(site.folder, [Label("i04", "benign", "Dr A", utc("2027-03-01"), "0" * 64)])
    with pytest.raises(InputError, match="1 images are no longer those that were annotated: 'i04'"):
        run(request_of(site, "file"))


def test_an_outline_of_an_image_that_changed(site: SiteSettings) -> None:
    name, content = mask_file(np.ones((32, 32), np.uint8), 0)
    line = Outline("i04", name, "Dr A", utc("2027-03-01"), "0" * 64)
    add_outlines(site.folder, [line], {name: content})
    with pytest.raises(InputError, match="1 images are no longer those that were annotated: 'i04'"):
        run(request_of(site, "file"))


def test_two_who_disagree_are_not_counted(site: SiteSettings) -> None:
    digest = digest_of(site, "i04")
    for reader, said in (("Dr A", "benign"), ("Dr B", "malignant")):
        add_labels(site.folder, [Label("i04", said, reader, utc("2027-03-01"), digest)])
    assert counts_of(request_of(site, "file"))["entropy.50.annotated"] == 0
    decision = Decision("i04", "label", "benign", "Dr C", utc("2027-03-02"), digest)
    add_decision(site.folder, decision)
    assert counts_of(request_of(site, "file"))["entropy.50.annotated"] == 1


def test_outlines_are_counted_where_they_are_trained_on(tmp_path: Path) -> None:
    site = site_of(tmp_path)
    choose_all(site)
    study = parse_study(
        merged(TABLES, {"arms": ["ensemble", "ensemble_selected", "entropy", "random"],
                        "annotate": {"labels": "file"}}), "chosen"
    )  # fmt: skip
    request = Request(site, study, make_plan(study), "annotate")
    digest = digest_of(site, "i02")
    add_labels(site.folder, [
        Label(id_, "benign", "Dr A", utc("2027-03-01"), digest_of(site, id_))
        for id_ in ("i02", "i03")
    ])  # fmt: skip
    assert counts_of(request)["entropy.50.outlined"] == 0
    name, content = mask_file(np.ones((32, 32), np.uint8), 0)
    line = Outline("i02", name, "Dr A", utc("2027-03-01"), digest)
    add_outlines(site.folder, [line], {name: content})
    counts = counts_of(request)
    assert {k: v for k, v in counts.items() if "outlined" in k} == {
        "entropy.20.outlined": 1, "entropy.50.outlined": 1,
    }  # fmt: skip
    asked = read_asked(site.folder)
    assert (asked.outlines, asked.labels, asked.study) == (True, study.labels, "chosen")


def test_before_the_selection(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing has been selected for entropy yet"):
        run(request_of(site_of(tmp_path)))


def test_no_image_and_no_label_is_in_the_answer(site: SiteSettings) -> None:
    result = run(request_of(site))
    assert result.weights is None
    assert {field.name for field in dataclasses.fields(result)} == {"metrics", "weights"}
    assert all(isinstance(value, int) for value in result.metrics.values())

import re
from pathlib import Path

import pytest

from clients import selection_page
from clients.annotations import read_worklist
from clients.request import Request
from clients.selection_page import write_selection_page
from tests.clients.classifying import site_of, study_of
from tests.clients.selecting import selected_request
from tests.clients.test_report import Page

ARMS = ["dual", "random", "coreset", "full", "source_only", "dual_k2"]


def request_of(root: Path, *arms: str, overlays: int = 12) -> Request:
    study = study_of(arms=list(arms or ARMS), evaluate={"overlays": overlays})
    return selected_request(site_of(root), study)


@pytest.fixture(scope="module")
def request_(tmp_path_factory: pytest.TempPathFactory) -> Request:
    return request_of(tmp_path_factory.mktemp("site"))


def page_of(request: Request) -> str:
    path = write_selection_page(request)
    assert path is not None
    assert path.parent == request.site.folder
    return path.read_text()


def test_one_file_that_says_where_it_stays(request_: Request) -> None:
    text = page_of(request_)
    page = Page(text)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert all(link.startswith(("#", "data:image/png")) for link in page.links)
    assert "<script" not in text
    assert "Stays at this site" in text
    assert "fe01" not in re.sub(r"base64,[A-Za-z0-9+/=]*", "", text).replace(
        request_.study.digest, ""
    )
    assert page_of(request_) == text


def test_first_and_last_of_the_worklist_with_their_pictures(request_: Request) -> None:
    text = page_of(request_)
    choices = read_worklist(request_.site.folder, "dual", 0.5)
    for choice in (choices[0], choices[-1]):
        for label in ("image", "edges", "reconstruction"):
            assert f'aria-label="{choice.id}: {label}"' in text
        assert f"{choice.uncertainty:.3f}" in text
    for name in ("sphere", "score", "tsne"):
        assert f'id="{name}-' in text
    words = re.sub(r"<[^>]+>", " ", text)
    assert "By random." not in words  # the leading arm's worklist alone
    assert "dual_k2" in words


def test_a_leading_strategy_has_no_sphere(tmp_path: Path) -> None:
    text = page_of(request_of(tmp_path, "random", "full"))
    assert "hypersphere" not in text
    assert ": edges" not in text
    assert "By random." in text


def test_a_choice_without_reconstruction(tmp_path: Path) -> None:
    text = page_of(request_of(tmp_path, "no_reconstruction", "random"))
    assert ": edges" not in text
    assert 'id="sphere-' in text
    assert 'id="score-' not in text


def test_no_page_where_none_is_wanted(tmp_path: Path) -> None:
    assert write_selection_page(request_of(tmp_path / "a", overlays=0)) is None
    study = study_of(arms=["full", "source_only"])
    assert write_selection_page(selected_request(site_of(tmp_path / "b"), study)) is None


def test_experts_words_are_counted(request_: Request) -> None:
    asked = {(a.arm, a.budget): a for a in selection_page._asked(request_)}
    dual = asked["dual", 0.5]
    # The first of the worklist is not annotated, unless another arm has asked for it as well.
    assert dual.wanted == len(read_worklist(request_.site.folder, "dual", 0.5))
    assert dual.wanted - 1 <= sum(dual.labels.values()) <= dual.wanted


def test_a_large_pool_is_thinned_the_same_way_each_time(
    request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clients.selection_pictures.POINTS", 7)
    text = page_of(request_)
    assert "Embeddings of 7 images of 18" in text
    assert page_of(request_) == text

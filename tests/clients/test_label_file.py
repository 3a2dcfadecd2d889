"""A file of labels is believed whole or not at all."""

import csv
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from clients.annotations import Label, all_worklists, utc
from clients.asked import Asked
from clients.forms.names import wanted_images
from clients.forms.said import Checker, believe
from clients.label_file import read_words, write_template
from clients.settings import SiteSettings
from common.errors import InputError
from tests.clients.chosen import IDS, choose, choose_all, digest_of, site_of

LABELS = ("benign", "malignant")
HEADER = "id,label,reader,time,image_sha256"


@pytest.fixture
def site(tmp_path: Path) -> SiteSettings:
    found = site_of(tmp_path)
    choose_all(found)
    return found


def read(
    path: Path, site: SiteSettings, known: list[Label] | None = None
) -> tuple[list[Label], int]:
    words, silent = read_words(path)
    checker = Checker(site, all_worklists(site.folder), LABELS, known or [])
    asked = Asked(study="chosen", labels=LABELS)
    return believe(words, checker, asked, known or [], []).labels, silent


def write(folder: Path, *lines: str, header: str = HEADER) -> Path:
    path = folder / "said.csv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def problems_of(path: Path, site: SiteSettings, known: list[Label] | None = None) -> list[str]:
    with pytest.raises(InputError) as caught:
        read(path, site, known)
    return [problem.removeprefix(f"{path}: ") for problem in caught.value.problems]


def test_the_most_wanted_first(site: SiteSettings) -> None:
    assert wanted_images(all_worklists(site.folder)) == [
        "i00", "i02", "i01", "i03", "i04", "i05", "i06", "i07",
    ]  # fmt: skip


def test_a_template_filled_in(site: SiteSettings, tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    assert write_template(path, site, all_worklists(site.folder)) == 8
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows][:3] == ["i00", "i02", "i01"]
    assert rows[0]["image_sha256"] == digest_of(site, "i00")
    assert Path(rows[0]["image"]).read_bytes()
    assert read(path, site) == ([], 8)
    for row in rows[:3]:
        row |= {"label": "benign", "reader": "Dr Ü", "time": "2026-03-01"}
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    found, unlabelled = read(path, site)
    assert unlabelled == 5
    assert found[0] == Label("i00", "benign", "Dr Ü", utc("2026-03-01"), digest_of(site, "i00"))
    assert len(found) == 3


def test_a_filled_template_is_never_overwritten(site: SiteSettings, tmp_path: Path) -> None:
    path = write(tmp_path, "i00,benign,A,2026-03-01,x")
    with pytest.raises(InputError, match="is there already"):
        write_template(path, site, all_worklists(site.folder))
    with pytest.raises(InputError, match="cannot be written"):
        write_template(tmp_path / "none" / "x.csv", site, all_worklists(site.folder))


def test_columns_in_any_order_and_digests_in_any_case(site: SiteSettings, tmp_path: Path) -> None:
    digest = digest_of(site, "i01")
    header = "image_sha256,time,id,reader,label"
    line = f"{digest.upper()},2026-03-01T11:00+01:00,i01, Dr A ,malignant"
    found, _ = read(write(tmp_path, line, header=header), site)
    assert found == [Label("i01", "malignant", "Dr A", "2026-03-01T10:00:00Z", digest)]


def test_every_problem_is_said_at_once(site: SiteSettings, tmp_path: Path) -> None:
    good, other = digest_of(site, "i00"), digest_of(site, "i05")
    path = write(
        tmp_path,
        f"i00,benign,A,2026-03-01,{good}",
        f"i11,benign,A,2026-03-01,{digest_of(site, 'i11')}",
        f"i99,benign,A,2026-03-01,{good}",
        "",
        f"i01,normal,,yesterday,{other}",
        "i02,benign,A,2026-03-01,",
        f"i00,malignant,A,2026-03-01T00:00Z,{good}",
        f"i00,benign,B,2999-01-01,{good}",
    )
    assert problems_of(path, site) == [
        "row 3: nobody selected the image 'i11'",
        "row 4: nobody selected the image 'i99'",
        "row 6: the label 'normal' is none of benign, malignant",
        "row 6: names no reader",
        "row 6: the image 'i01' is not the one that was annotated: "
        f"{site.data_folder / 'i01.png'} has another SHA-256",
        "row 6: the time 'yesterday' is not ISO 8601, such as 2026-03-01T09:30:00Z",
        "row 7: the image 'i02' comes without its image_sha256",
        "row 8: A has said 'benign' of 'i00' at that very time; a change of "
        "mind needs a later time",
        "row 9: the time '2999-01-01' is in the future",
    ]  # fmt: skip


def test_a_changed_image_under_an_old_id(site: SiteSettings, tmp_path: Path) -> None:
    path = write(tmp_path, f"i00,benign,A,2026-03-01,{digest_of(site, 'i00')}")
    assert len(read(path, site)[0]) == 1
    (site.data_folder / "i00.png").write_bytes((site.data_folder / "i01.png").read_bytes())
    assert "is not the one that was annotated" in problems_of(path, site)[0]


def test_an_image_that_the_manifest_has_lost(site: SiteSettings, tmp_path: Path) -> None:
    choose(site, "random", 0.2, ["gone"])
    path = write(tmp_path, "gone,benign,A,2026-03-01,00")
    assert problems_of(path, site) == ["row 2: the manifest no longer names the image 'gone'"]
    with pytest.raises(InputError, match="no longer names the image 'gone'"):
        write_template(tmp_path / "out.csv", site, all_worklists(site.folder))


def test_what_was_said_before_is_not_unsaid_at_the_same_time(
    site: SiteSettings, tmp_path: Path
) -> None:
    digest = digest_of(site, IDS[0])
    before = [Label(IDS[0], "benign", "A", utc("2026-03-01"), digest)]
    same = write(tmp_path, f"i00,benign,A,2026-03-01,{digest}")
    assert read(same, site, before)[0] == []
    assert read(same, site)[0] == before
    for line in (f"i00,malignant,A,2026-03-02,{digest}", f"i00,malignant,B,2026-03-01,{digest}"):
        assert len(read(write(tmp_path, line), site, before)[0]) == 1
    changed = write(tmp_path, f"i00,malignant,A,2026-03-01,{digest}")
    assert "at that very time" in problems_of(changed, site, before)[0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["is empty"]),
        (b"\xff\xfe", ["is not UTF-8 text (byte 0)"]),
        (b"id,label,reader,time,image_sha256\na,b\n", ["row 2: has 2 cells, the header has 5"]),
        (
            b"id,id,lable,reader,time\n",
            [
                "the column 'lable' is unknown; did you mean 'label'?",
                "the column 'label' is missing",
                "the column 'image_sha256' is missing",
                "two columns are called 'id'",
            ],
        ),
    ],
)
def test_no_such_table(
    site: SiteSettings, tmp_path: Path, content: bytes, words: list[str]
) -> None:
    path = tmp_path / "said.csv"
    path.write_bytes(content)
    assert problems_of(path, site) == words


def test_no_such_file(site: SiteSettings, tmp_path: Path) -> None:
    assert problems_of(tmp_path / "none.csv", site) == [
        "cannot be read (No such file or directory)"
    ]


def test_a_clock_that_is_a_little_ahead_is_believed(site: SiteSettings, tmp_path: Path) -> None:
    digest = digest_of(site, "i00")
    for hours, taken in ((12, True), (48, False)):
        when = (datetime.now(UTC) + timedelta(hours=hours)).isoformat()
        path = write(tmp_path, f"i00,benign,A,{when},{digest}")
        if taken:
            assert len(read(path, site)[0]) == 1
        else:
            assert problems_of(path, site) == [f"row 2: the time {when!r} is in the future"]

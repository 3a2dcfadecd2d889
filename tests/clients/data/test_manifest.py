from collections.abc import Callable
from pathlib import Path

import pytest

from clients.data.manifest import read_manifest, scan_manifest
from common.config.data import DataSpec
from common.errors import InputError

Rows = list[dict[str, str]]
Table = Callable[..., Rows]
WriteSite = Callable[[Rows], Path]


def spec(**tables: object) -> DataSpec:
    return DataSpec.model_validate({"folder": "site", **tables})


def problems(folder: Path, given: DataSpec) -> list[str]:
    with pytest.raises(InputError) as caught:
        read_manifest(folder, given)
    return caught.value.problems


def test_reads_every_column(write_site: WriteSite) -> None:
    row = {
        "id": "a",
        "image": "images/a.png",
        "mask": "masks/a.png",
        "label": "benign",
        "patient": "p1",
        "video": "v1",
        "frame": "37",
        "device": "GE Logiq 5",
        "group": "g",
        "split": "val",
        "side": "left",
    }
    folder = write_site([row])
    (got,) = read_manifest(folder, spec())
    assert (got.image, got.mask) == (folder / "images/a.png", folder / "masks/a.png")
    assert (got.label, got.patient, got.video, got.frame) == ("benign", "p1", "v1", 37)
    assert (got.device, got.group, got.split, got.number) == ("GE Logiq 5", "g", "val", 2)
    assert got.extra["side"] == "left"


def test_only_id_and_image_are_needed(write_site: WriteSite) -> None:
    (row,) = read_manifest(write_site([{"id": "a", "image": "a.png"}]), spec())
    assert (row.mask, row.frame, row.patient, row.split) == (None, None, "", "")


def test_columns_filters_and_extract(write_site: WriteSite, table: Table) -> None:
    folder = write_site(
        table(
            8,
            device=lambda i: f"GE Logiq {5 + 2 * (i % 2)} @10MHz",
            split_hint=lambda i: f"grp{i // 2}",
            note=lambda i: "bad" if i == 2 else "",
            clip=lambda i: f"Reg_set{i // 4}_vid{i}",
        )
    )
    rows = read_manifest(
        folder,
        spec(
            columns={"group": "split_hint", "patient": "clip"},
            extract={"patient": "set[0-9]+"},
            where={"device": "GE Logiq 5*", "group": ["grp0", "grp1", "grp3"]},
            drop={"note": "bad"},
        ),
    )
    assert [row.id for row in rows] == ["i0", "i6"]
    assert [row.group for row in rows] == ["grp0", "grp3"]
    assert [row.patient for row in rows] == ["set0", "set1"]


def test_where_joins_columns_by_and_drop_by_or(write_site: WriteSite, table: Table) -> None:
    folder = write_site(table(4, a=lambda i: str(i % 2), b=lambda i: str(i // 2)))
    kept = read_manifest(folder, spec(where={"a": "1", "b": "1"}))
    assert [row.id for row in kept] == ["i3"]
    kept = read_manifest(folder, spec(drop={"a": "1", "b": "1"}))
    assert [row.id for row in kept] == ["i0"]


def test_missing_and_empty_manifests(tmp_path: Path) -> None:
    assert "there is no such manifest" in problems(tmp_path, spec())[0]
    (tmp_path / "index.csv").write_text("")
    assert problems(tmp_path, spec()) == [f"{tmp_path / 'index.csv'}: is empty"]
    (tmp_path / "index.csv").write_text("id,image\n")
    assert problems(tmp_path, spec()) == [f"{tmp_path / 'index.csv'}: has a header but no rows"]


def test_a_table_of_another_encoding_is_told(tmp_path: Path) -> None:
    (tmp_path / "index.csv").write_bytes("id,image\nä,b.png\n".encode("latin-1"))
    assert "is not UTF-8 text" in problems(tmp_path, spec())[0]


def test_faults_of_the_header_all_at_once(tmp_path: Path) -> None:
    (tmp_path / "index.csv").write_text("id,imge,device,device\na,b,c,d\n")
    found = problems(
        tmp_path,
        spec(
            columns={"group": "split_hint"},
            where={"devise": "x"},
            drop={"nothing": "y"},
            test={"divice": "z"},
        ),
    )
    text = "\n".join(found)
    assert len(found) == 6
    assert "two columns are called 'device'" in text
    assert "has no column 'split_hint' (columns.group)" in text
    assert "the column 'image' is missing; did you mean 'imge'?" in text
    assert "has no column 'devise' (where); did you mean 'device'?" in text
    assert "has no column 'divice' (test); did you mean 'device'?" in text


def test_faults_of_rows_all_at_once(write_site: WriteSite, table: Table) -> None:
    rows = table(10, frame=lambda i: str(i), split=lambda i: "train")
    folder = write_site(rows)
    (folder / "images/i1.png").unlink()
    (folder / "images/i2.png").write_bytes(b"")
    (folder / "masks/i3.png").write_bytes(b"")
    lines = (folder / "index.csv").read_text().splitlines()
    lines[5] = lines[5].replace("images/i4.png", "../outside.png")
    lines[6] = lines[6].replace("images/i5.png", "/etc/passwd")
    lines[7] = lines[7].replace(",6,", ",6.5,")
    lines[8] = lines[8].replace("train", "tarin")
    lines[9] = lines[9].replace("i8,", "i0,", 1)
    lines[10] = "i9,images/i9.png"
    (folder / "index.csv").write_text("\n".join(lines) + "\n")
    found = problems(folder, spec())
    expected = [
        "row 3: image 'images/i1.png' is not there",
        "row 4: image 'images/i2.png' is empty (0 bytes)",
        "row 5: mask 'masks/i3.png' is empty (0 bytes)",
        "row 6: image '../outside.png' leads out of the manifest's folder",
        "row 7: image '/etc/passwd' is an absolute path",
        "row 8: frame '6.5' is no whole number",
        "row 9: split 'tarin' is none of train, val, test",
        "row 10: the id 'i0' is already that of row 2",
        "row 11: has 2 cells, the header has 5",
    ]
    assert len(found) == len(expected)
    for problem, words in zip(found, expected, strict=True):
        assert problem.startswith(f"{folder / 'index.csv'}: {words}")


def test_empty_cells_and_repeated_ids_in_filtered_rows(write_site: WriteSite) -> None:
    folder = write_site(
        [
            {"id": "a", "image": "a.png", "kind": "x"},
            {"id": "a", "image": "b.png", "kind": "y"},
            {"id": "", "image": "c.png", "kind": "x"},
            {"id": "d", "image": "", "kind": "x"},
        ]
    )
    text = "\n".join(problems(folder, spec(where={"kind": "x"})))
    assert "row 3: the id 'a' is already that of row 2" in text
    assert "row 4: the column 'id' is empty" in text
    assert "row 5: the column 'image' is empty" in text


def test_a_path_may_wander_inside_the_folder(write_site: WriteSite) -> None:
    folder = write_site([{"id": "a", "image": "a.png"}])
    (folder / "sub").mkdir()
    (folder / "index.csv").write_text("id,image\na,sub/../a.png\nb,sub/../../a.png\n")
    found = problems(folder, spec())
    assert len(found) == 1
    assert "row 3" in found[0]


def test_filters_that_leave_nothing(write_site: WriteSite, table: Table) -> None:
    folder = write_site(table(3, device=lambda i: "A"))
    assert "leave none of the 3 rows" in problems(folder, spec(where={"device": "B*"}))[0]
    assert "leave none of the 3 rows" in problems(folder, spec(drop={"device": "A"}))[0]
    assert "test = {'device': 'B'} matches none" in problems(folder, spec(test={"device": "B"}))[0]


def test_a_drop_that_takes_nothing_is_a_warning(write_site: WriteSite, table: Table) -> None:
    scan = scan_manifest(write_site(table(2)), spec(drop={"id": "zzz"}))
    assert not scan.problems
    assert "drop.id = 'zzz' matches no row" in scan.warnings[0]


def test_spreadsheets_bom_and_blank_lines(write_site: WriteSite) -> None:
    folder = write_site([{"id": "a", "image": "a.png"}])
    (folder / "index.csv").write_bytes(b"\xef\xbb\xbfid,image\r\n a , a.png \r\n,\r\n\r\n")
    assert [row.id for row in read_manifest(folder, spec())] == ["a"]


def test_no_image_or_mask_is_opened(
    write_site: WriteSite, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_site(table(3))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("opened")

    monkeypatch.setattr("PIL.Image.open", refuse)
    assert len(read_manifest(folder, spec())) == 3

import threading
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from clients.data.cache import Digests, Plane, cache_key, open_cache
from common.errors import InputError

Usage = namedtuple("Usage", "total used free")


def plane(index: int) -> Plane:
    return np.full((4, 4), index, np.uint8)


def test_decodes_once_and_reports_progress(tmp_path: Path) -> None:
    path = tmp_path / "key.npy"
    told: list[tuple[int, int]] = []
    built = open_cache(
        path, 3, 4, plane, owner="site 'a'", progress=lambda done, total: told.append((done, total))
    )
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert built[:, 0, 0].tolist() == [0, 1, 2]

    def never(index: int) -> Plane:
        raise AssertionError

    again = open_cache(path, 3, 4, never, owner="site 'a'")
    assert (again == built).all()
    assert isinstance(again, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        again[0] = 0


def test_all_bad_files_are_told_and_nothing_stays(tmp_path: Path) -> None:
    def decode(index: int) -> Plane:
        if index % 2:
            raise InputError(f"file {index} is bad")
        return plane(index)

    with pytest.raises(InputError) as caught:
        open_cache(tmp_path / "key.npy", 5, 4, decode, owner="site 'a'")
    assert caught.value.problems == ["file 1 is bad", "file 3 is bad"]
    assert not list(tmp_path.glob("*.npy"))
    assert not list(tmp_path.glob("*.part"))


def test_a_crash_leaves_no_cache(tmp_path: Path) -> None:
    def decode(index: int) -> Plane:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_cache(tmp_path / "key.npy", 5, 4, decode, owner="site 'a'")
    assert not (tmp_path / "key.npy").exists()


def test_a_cut_file_is_built_again(tmp_path: Path) -> None:
    path = tmp_path / "key.npy"
    open_cache(path, 3, 4, plane, owner="site 'a'")
    path.write_bytes(path.read_bytes()[:-5])
    assert open_cache(path, 3, 4, plane, owner="site 'a'")[2, 0, 0] == 2


def test_too_little_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: Usage(10**9, 10**9, 2 * 2**20))
    with pytest.raises(InputError, match=r"site 'north': too little disk .* 2 MB are free"):
        open_cache(tmp_path / "key.npy", 3, 4, plane, owner="site 'north'")


def test_a_second_builder_waits(tmp_path: Path) -> None:
    decoded: list[int] = []

    def slow(index: int) -> Plane:
        decoded.append(index)
        time.sleep(0.02)
        return plane(index)

    def build() -> None:
        open_cache(tmp_path / "key.npy", 5, 4, slow, owner="site 'a'")

    threads = [threading.Thread(target=build) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert decoded == [0, 1, 2, 3, 4]


def test_the_key_knows_all_it_depends_on() -> None:
    base = ("images", 112, "pillow", "1", ["a None", "b None"])
    others = [
        ("masks", 112, "pillow", "1", ["a None", "b None"]),
        ("images", 96, "pillow", "1", ["a None", "b None"]),
        ("images", 112, "own", "1", ["a None", "b None"]),
        ("images", 112, "pillow", "2", ["a None", "b None"]),
        ("images", 112, "pillow", "1", ["b None", "a None"]),
        ("images", 112, "pillow", "1", ["a 1", "b None"]),
    ]
    keys = {cache_key(*given) for given in [base, *others]}
    assert len(keys) == 7
    assert cache_key(*base) in keys


def test_digests_are_remembered_until_the_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(b"one")
    digests = Digests(tmp_path)
    first = digests.of(file)
    digests.save()
    known = Digests(tmp_path)
    file.chmod(0)  # a remembered file is not opened
    assert known.of(file) == first
    file.chmod(0o600)
    file.write_bytes(b"three")
    assert known.of(file) != first
    (tmp_path / "digests.json").write_text("{cut")
    assert Digests(tmp_path).of(file) == known.of(file)

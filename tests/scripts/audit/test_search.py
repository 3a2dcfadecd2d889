"""Every form of a canary is found where it was planted, and honest weights hold none."""

import base64
import bz2
import gzip
import hashlib
import io
import lzma
import pickle
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from clients.data.manifest import read_manifest
from common.config.data import DataSpec
from scripts.audit.canary import Canaries, write_site
from scripts.audit.needles import needles_of
from scripts.audit.search import BLOCK, Found, Searcher

Plane = NDArray[np.uint8]


@pytest.fixture(scope="module")
def canaries(tmp_path_factory: pytest.TempPathFactory) -> Canaries:
    folder = tmp_path_factory.mktemp("canary") / "north"
    return write_site(folder, "north", seen=32, patients=4, frames=1)


@pytest.fixture(scope="module")
def searcher(canaries: Canaries) -> Searcher:
    return Searcher(needles_of(canaries))


@pytest.fixture(scope="module")
def weights() -> bytes:
    """Some MB of what honest weights look like."""
    rng = np.random.default_rng(5)
    parts: list[NDArray[Any]] = [
        (rng.standard_normal(200_000) * 0.05).astype(np.float32),
        np.zeros(20_000, np.float32),
        np.linspace(-1, 1, 30_000).astype(np.float16),
        rng.standard_normal(100_000).astype(np.float64),
        rng.integers(0, 50, 4000),
    ]
    return b"".join(part.tobytes() for part in parts)


def standardised(plane: Plane) -> NDArray[np.float64]:
    values = plane.astype(np.float64)
    return np.asarray((values - values.mean()) / values.std())


def bfloat16(values: NDArray[Any]) -> bytes:
    packed: bytes = (np.asarray(values, np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()
    return packed


def in_low_bytes(plane: Plane) -> bytes:
    """Pixels in the lowest eight bits of weights, which hardly change for it."""
    weights = (np.random.default_rng(2).standard_normal(plane.size) * 0.1).astype("<f4")
    return ((weights.view("<u4") & 0xFFFFFF00) | plane.reshape(-1)).astype("<u4").tobytes()


def in_wide_rows(plane: Plane) -> bytes:
    wide = np.random.default_rng(3).standard_normal((plane.shape[0], 200)).astype(np.float32)
    wide[:, 70 : 70 + plane.shape[1]] = plane / np.float32(255)
    return wide.tobytes()


def patches(plane: Plane) -> NDArray[np.float32]:
    """As kernels of 8 x 8, in another order, each of another scale."""
    side = plane.shape[0] // 8
    found = plane.reshape(side, 8, side, 8).swapaxes(1, 2).reshape(-1, 64)
    scales = np.random.default_rng(4).uniform(-3, 3, (len(found), 1))
    return np.asarray(found[::-1] * scales + scales, np.float32)


def npz(plane: Plane) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, plane=plane)
    return out.getvalue()


def picture(kind: str, **options: Any) -> Callable[[Plane], bytes]:
    def write(plane: Plane) -> bytes:
        out = io.BytesIO()
        Image.fromarray(plane).save(out, kind, **options)
        return out.getvalue()

    return write


FORMS: dict[str, Callable[[Plane], bytes]] = {
    "bytes": lambda p: p.tobytes(),
    "a quarter of it": lambda p: p.tobytes()[p.size // 2 : p.size * 3 // 4],
    "by columns": lambda p: np.asfortranarray(p).tobytes(order="F"),
    "inverted": lambda p: (255 - p).tobytes(),
    "float32": lambda p: p.astype("<f4").tobytes(),
    "float32 in 0..1": lambda p: (p / 255).astype("<f4").tobytes(),
    "float32 standardised": lambda p: standardised(p).astype("<f4").tobytes(),
    "float32 with the sign turned": lambda p: (-1e-3 * standardised(p)).astype("<f4").tobytes(),
    "float32 big-endian": lambda p: (p / 255).astype(">f4").tobytes(),
    "float32 at an odd place": lambda p: b"x" + (p / 255).astype("<f4").tobytes(),
    "float16": lambda p: (p / 255).astype("<f2").tobytes(),
    "float16 standardised": lambda p: standardised(p).astype("<f2").tobytes(),
    "bfloat16": lambda p: bfloat16(p / 255),
    "bfloat16 standardised": lambda p: bfloat16(standardised(p)),
    "float64": lambda p: (p / 255).astype("<f8").tobytes(),
    "int16": lambda p: p.astype("<i2").tobytes(),
    "int64": lambda p: p.astype("<i8").tobytes(),
    "int64 big-endian": lambda p: p.astype(">i8").tobytes(),
    "noisy floats": lambda p: (
        (p + np.random.default_rng(0).normal(0, 0.02, p.shape)) / 255
    ).astype("<f4").tobytes(),
    "4 bits as floats": lambda p: ((p >> 4) / 15).astype("<f4").tobytes(),
    "4 bits packed": lambda p: (
        ((p >> 4).reshape(-1)[::2] << 4) | (p >> 4).reshape(-1)[1::2]
    ).tobytes(),
    "4 bits packed, low half first": lambda p: (
        ((p >> 4).reshape(-1)[1::2] << 4) | (p >> 4).reshape(-1)[::2]
    ).tobytes(),
    "2 bits": lambda p: (
        (p.reshape(-1, 4) >> 6) @ np.array([64, 16, 4, 1], np.uint8)
    ).astype(np.uint8).tobytes(),
    "1 bit": lambda p: np.packbits(p > 127).tobytes(),
    "low bytes of weights": in_low_bytes,
    "kernels of 8 x 8": lambda p: patches(p).tobytes(),
    "zlib": lambda p: zlib.compress(p.tobytes()),
    "zlib of floats": lambda p: zlib.compress((p / 255).astype("<f4").tobytes(), 1),
    "gzip": lambda p: gzip.compress(p.tobytes()),
    "bzip2": lambda p: bz2.compress(p.tobytes()),
    "xz": lambda p: lzma.compress(p.tobytes()),
    "npz": npz,
    "pickle": pickle.dumps,
    "pickle of old": lambda p: pickle.dumps(p, 2),
    "base64": lambda p: base64.b64encode(p.tobytes()),
    "base64 for addresses": lambda p: base64.urlsafe_b64encode(b"ab" + p.tobytes()),
    "hexadecimal": lambda p: p.tobytes().hex().encode(),
    "base64 of zlib": lambda p: base64.b64encode(zlib.compress(p.tobytes())),
    "JSON": lambda p: str(p.reshape(-1).tolist()).encode(),
    "varints": lambda p: b"".join(
        bytes([v]) if v < 128 else bytes([v & 127 | 128, 1]) for v in p.reshape(-1).tolist()
    ),
    "PNG": picture("PNG"),
    "WebP without loss": picture("WEBP", lossless=True),
    "TIFF": picture("TIFF", compression="tiff_lzw"),
    "BMP": picture("BMP"),
    "JPEG": picture("JPEG", quality=97),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
@pytest.mark.parametrize("number", [0, 1], ids=["on the disk", "as trained on"])
def test_every_form_of_an_image_is_found(
    form: Callable[[Plane], bytes],
    number: int,
    canaries: Canaries,
    searcher: Searcher,
    weights: bytes,
) -> None:
    what, plane = canaries.pictures[number]
    planted = form(plane)
    cut = 100_003
    found = searcher.data(weights[:cut] + planted + weights[cut : 2 * cut])
    names = {hit.what.removesuffix(", as trained on") for hit in found.hits}
    # A picture's file is the canary's own file too.
    assert {name.removesuffix(", its file") for name in names} == {
        what.removesuffix(", as trained on")
    }
    assert all(cut - 64 <= hit.place <= cut + len(planted) for hit in found.hits if not hit.within)


def test_rows_of_64_pixels_are_found_in_a_wider_table(
    canaries: Canaries, searcher: Searcher
) -> None:
    what, plane = canaries.pictures[0]
    assert {hit.what for hit in searcher.data(in_wide_rows(plane)).hits} == {what}


@pytest.mark.parametrize(
    "form",
    [
        lambda m: m.astype("<f4").tobytes(),
        lambda m: (m * np.uint8(255)).tobytes(),
        lambda m: np.packbits(m).tobytes(),
        lambda m: zlib.compress(np.packbits(m, bitorder="little").tobytes()),
    ],
)
def test_a_mask_is_found(
    form: Callable[[Plane], bytes], canaries: Canaries, searcher: Searcher, weights: bytes
) -> None:
    what, mask = canaries.masks[0]
    found = searcher.data(weights[:50_000] + form(mask) + weights[:50_000])
    assert {hit.what.removesuffix(", as trained on") for hit in found.hits} == {what}


SPELLINGS: dict[str, Callable[[str], bytes]] = {
    "UTF-8": str.encode,
    "UTF-16": lambda t: t.encode("utf-16"),
    "capitals": lambda t: t.upper().encode(),
    "backwards": lambda t: t[::-1].encode(),
    "in an error": lambda t: f"FileNotFoundError: /data/{t}/x.png".encode(),
    "base64": lambda t: base64.b64encode(t.encode()),
    "base64, in the middle": lambda t: base64.b64encode(b"a" + t.encode()),
    "hexadecimal": lambda t: t.encode().hex().encode(),
    "sha256": lambda t: hashlib.sha256(t.encode()).digest(),
    "sha256, hexadecimal": lambda t: hashlib.sha256(t.encode()).hexdigest().encode(),
    "md5": lambda t: hashlib.md5(t.encode()).hexdigest().encode(),
    "zlib": lambda t: zlib.compress(f"{t} was here, and after {t} came others, 12345678".encode()),
    "gzip": lambda t: gzip.compress(f"{t} was here, and after {t} came others, 12345678".encode()),
    "JSON numbers": lambda t: str(list(t.encode())).encode(),
}


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=list(SPELLINGS))
@pytest.mark.parametrize("kind", ["patient", "surname", "id", "file name", "label", "folder"])
def test_every_spelling_of_a_name_is_found(
    kind: str,
    spelling: Callable[[str], bytes],
    canaries: Canaries,
    searcher: Searcher,
    weights: bytes,
) -> None:
    what, text = next(pair for pair in canaries.texts if pair[0] == f"north: {kind}")
    found = searcher.data(weights[:5001] + spelling(text) + weights[:5000])
    assert what in {hit.what for hit in found.hits}


def test_honest_weights_hold_no_canary(searcher: Searcher, weights: bytes, tmp_path: Path) -> None:
    path = tmp_path / "stream"
    path.write_bytes(weights * 3)
    found = searcher.file(path)
    assert found.bytes == 3 * len(weights)
    assert (found.count, found.hits, found.skipped) == (0, [], [])


def test_other_random_images_are_not_taken_for_canaries(searcher: Searcher, tmp_path: Path) -> None:
    """Same kind of image, another draw: what is found is these pixels, not noise."""
    other = write_site(tmp_path / "s", "south", seen=32, patients=6, frames=2, seed=9)
    stream = b"".join(plane.tobytes() + (plane / 255).tobytes() for _, plane in other.pictures)
    stream += b"".join(data for _, data in other.files)
    stream += "".join(text for _, text in other.texts).encode()
    assert searcher.data(stream).count == 0


def test_a_copy_over_the_seam_of_two_blocks_is_found_once_and_memory_is_bounded(
    canaries: Canaries, searcher: Searcher, tmp_path: Path
) -> None:
    path = tmp_path / "stream"
    planted = (canaries.pictures[0][1] / 255).astype("<f8").tobytes()
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        for place in range(5):
            file.write((rng.standard_normal(BLOCK // 4) * 0.1).astype("<f4").tobytes())
            if place == 0:
                file.seek(-256, 1)
                file.write(planted)
    tracemalloc.start()
    found = searcher.file(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.count > 0
    places = [hit.place for hit in found.hits if hit.how == "float64, rows"]
    assert places[0] == BLOCK - 256
    assert peak < 150e6


def test_what_cannot_be_looked_into_is_said(searcher: Searcher) -> None:
    packed = b"abc" * 100
    for _ in range(4):
        packed = zlib.compress(b"-" * 60 + packed, 0)
    assert "packed 3 times" in " ".join(searcher.data(packed).skipped)
    bomb = zlib.compress(bytes(80 * 2**20))
    assert "gives more than" in " ".join(searcher.data(bomb).skipped)


def test_nothing_found_in_nothing(searcher: Searcher, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert searcher.file(tmp_path / "empty") == Found()


def test_a_canary_site_is_one_that_a_study_reads(tmp_path: Path) -> None:
    made = write_site(tmp_path / "a", "north", seen=32, patients=3, frames=2)
    rows = read_manifest(tmp_path / "a", DataSpec(folder="a"))
    assert len(rows) == 6
    assert len({row.patient for row in rows}) == 3
    assert {row.patient for row in rows} <= {text for _, text in made.texts}
    assert np.array_equal(np.asarray(Image.open(rows[0].image)), made.pictures[0][1])
    again = write_site(tmp_path / "b", "north", seen=32, patients=3, frames=2)
    assert np.array_equal(again.pictures[3][1], made.pictures[3][1])

"""Embeddings of a site's pool, and what is measured on them: files that stay in its folder.

`embeddings/<training>/` has the vectors of images and reconstructions, the exponent that the sites
have agreed on, and what has been reported of them; `scores/<arm>/` what the dual score is made of.

Legend: N = images of the pool, D = dimensions.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from clients.classifiers import features_of, load_classifier, rows_of
from clients.reconstruction import reconstructions
from clients.request import Request
from clients.settings import SiteSettings
from clients.site import open_site, training_rows
from clients.training import to_unit
from common.errors import InputError
from common.models.branches import load_shared, network_of
from common.models.sphere import SphereNetwork
from common.plan import Selection
from common.selection.lattice import Points, to_lattice
from common.selection.ranks import Measured
from common.wire.payload import digest_of

Squares = NDArray[np.uint8]
BATCH = 64
IMAGES, RECONSTRUCTIONS, RECORD, REPORTED = "images", "reconstructions", "record", "reported"


@dataclass(frozen=True)
class Embedded:
    """A pool's embeddings.

    Attributes:
        images: (N, D) float32, of length 1 where they are compared by angles.
        reconstructions: (N, D) the same of the reconstructions; None where nobody needs them.
    """

    images: NDArray[np.float32]
    reconstructions: NDArray[np.float32] | None


@dataclass(frozen=True)
class _Record:
    """What embeddings were made of."""

    weights: str
    pixels: str
    exponent: int | None = None


def pool_digests(request: Request) -> list[str]:
    """SHA-256 of each image of the pool, of its square, in the pool's order."""
    data = open_site(request.site, request.study)
    digests = []
    for row in training_rows(data, "score"):
        digests.append(hashlib.sha256(data.images(np.array([row])).tobytes()).hexdigest())
    return digests


def embed_pool(request: Request) -> Embedded:
    """Embed images and reconstructions by the weights that came; what is there already is taken.

    The student's projector before its predictor, or the source classifier's features, frozen, for
    both alike (method.md, "Hypersphere contrast").

    Raises:
        InputError: If the reconstructions are missing, or an embedding has no length to divide by.
    """
    data = open_site(request.site, request.study)
    images_NSS = data.images(training_rows(data, "score"))
    folder = _folder(request.site, request.selection)
    others = _reconstructed(request)
    redrawn_NSS = reconstructions(request.site, request.study) if others else None
    pixels = hashlib.sha256(images_NSS.tobytes())
    if redrawn_NSS is not None:
        pixels.update(np.ascontiguousarray(redrawn_NSS).tobytes())
    record = _Record(digest_of(request.weights), pixels.hexdigest())
    known = _read_record(folder)
    if known is None or (known.weights, known.pixels) != (record.weights, record.pixels):
        say = _embedder(request)
        _save(folder, IMAGES, say(images_NSS))
        if redrawn_NSS is not None:
            _save(folder, RECONSTRUCTIONS, say(redrawn_NSS))
        _write_record(folder, record)
    return load_embedded(request)


def load_embedded(request: Request) -> Embedded:
    """What `embed_pool` has kept for the request's selection.

    Raises:
        InputError: If it has not run.
    """
    folder = _folder(request.site, request.selection)
    if _read_record(folder) is None:
        raise InputError(
            f"site {request.site.name}: its pool has not been embedded for {request.target} "
            "(step embed of stage score comes first)"
        )
    others = folder / f"{RECONSTRUCTIONS}.npy"
    return Embedded(
        np.load(folder / f"{IMAGES}.npy", mmap_mode="r"),
        np.load(others, mmap_mode="r") if _reconstructed(request) else None,
    )


def agree(request: Request, exponent: int) -> None:
    """Keep the exponent that fits all sites' embeddings."""
    folder = _folder(request.site, request.selection)
    known = _read_record(folder)
    assert known is not None
    _write_record(folder, _Record(known.weights, known.pixels, exponent))


def lattice_points(request: Request) -> tuple[Points, Points | None]:
    """The pool's lattice points, and those of its reconstructions where the score needs them.

    Raises:
        InputError: If the pool has not been embedded, or the sites have not agreed on an exponent.
    """
    selection = request.selection
    embedded = load_embedded(request)
    record = _read_record(_folder(request.site, selection))
    if record is None or record.exponent is None:
        raise InputError(
            f"site {request.site.name}: no exponent has come for {request.target} (step moments "
            "of stage score comes first)"
        )
    metric, exponent = selection.metric, record.exponent
    partners = embedded.reconstructions if selection.reconstructed else None
    return (
        to_lattice(embedded.images, metric=metric, exponent=exponent),
        None if partners is None else to_lattice(partners, metric=metric, exponent=exponent),
    )


def reported_path(request: Request) -> Path:
    """Where a site keeps what it has said of these embeddings."""
    return _folder(request.site, request.selection) / f"{REPORTED}.npz"


def keep_measured(site: SiteSettings, arm: str, measured: Measured) -> None:
    """Keep what an arm's score is made of."""
    keep_arrays(site, arm, "measured", asdict(measured))


def load_measured(site: SiteSettings, arm: str) -> Measured:
    """What `keep_measured` has kept.

    Raises:
        InputError: If it has not.
    """
    kept = load_arrays(site, arm, "measured")
    return Measured(**{**kept, "has_distance": bool(kept["has_distance"])})


def keep_arrays(site: SiteSettings, arm: str, name: str, arrays: dict[str, Any]) -> None:
    """Write an arm's numbers, in one move."""
    path = site.folder / "scores" / arm / f"{name}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        np.savez(file, **arrays)
    partial.replace(path)


def load_arrays(site: SiteSettings, arm: str, name: str) -> dict[str, Any]:
    """What `keep_arrays` has kept.

    Raises:
        InputError: If it has not.
    """
    path = site.folder / "scores" / arm / f"{name}.npz"
    if not path.exists():
        raise InputError(f"site {site.name}: {arm} has no {name} numbers yet")
    with np.load(path, allow_pickle=False) as kept:
        return {key: kept[key] for key in kept}


def _folder(site: SiteSettings, selection: Selection) -> Path:
    return site.folder / "embeddings" / selection.embedding


def _reconstructed(request: Request) -> bool:
    """Whether any arm compares these embeddings with those of reconstructions."""
    return any(
        selection.reconstructed
        for selection in request.plan.selections.values()
        if selection.embedding == request.selection.embedding
    )


def _embedder(request: Request) -> Any:
    """(N, S, S) grey bytes to (N, D) float32."""
    study, compute = request.study, request.study.compute
    selection = request.selection
    training = request.plan.trainings[selection.embedding]
    if training.stage == "source_classifier":
        classifier = load_classifier(study, training.architecture, request.weights)

        def say(images_NSS: Squares) -> NDArray[np.float32]:
            return features_of(classifier, images_NSS, compute)
    else:
        network = cast(SphereNetwork, network_of(study, training))
        load_shared(network, request.weights)
        network.to(compute.device).eval()

        def say(images_NSS: Squares) -> NDArray[np.float32]:
            return rows_of(network, _batches(images_NSS, compute.device), compute, embed)

        def embed(images_B1HW: Tensor) -> Tensor:
            return network.embed(images_B1HW, normalise=False)

    if selection.metric == "euclidean":
        return say
    return lambda images_NSS: _normalised(say(images_NSS), request.site.name)


def _batches(images_NSS: Squares, device: str) -> Any:
    for start in range(0, len(images_NSS), BATCH):
        yield to_unit(np.ascontiguousarray(images_NSS[start : start + BATCH]), device)


def _normalised(z_ND: NDArray[np.float32], site: str) -> NDArray[np.float32]:
    """Rows of length 1 to float32's precision, whatever precision they were computed in."""
    wide = z_ND.astype(np.float64)
    length = np.sqrt(np.square(wide).sum(axis=1, keepdims=True))
    if not (np.isfinite(length) & (length > 0)).all():
        raise InputError(f"site {site}: an embedding is zero or not finite; the network is unsound")
    unit: NDArray[np.float32] = (wide / length).astype(np.float32)
    return unit


def _save(folder: Path, name: str, array: NDArray[np.float32]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{name}.{os.getpid()}.partial"
    with partial.open("wb") as file:
        np.save(file, array)
    partial.replace(folder / f"{name}.npy")


def _read_record(folder: Path) -> _Record | None:
    path = folder / f"{RECORD}.json"
    if not path.exists():
        return None
    return _Record(**json.loads(path.read_text(encoding="utf-8")))


def _write_record(folder: Path, record: _Record) -> None:
    partial = folder / f"{RECORD}.{os.getpid()}.partial"
    partial.write_text(json.dumps(asdict(record)) + "\n", encoding="utf-8")
    partial.replace(folder / f"{RECORD}.json")

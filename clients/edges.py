"""Canny edges of a site's squares: all of an image that its reconstruction gets to see (P2 2.1).

Legend: N = images, S = side in pixels.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.feature import canny

Squares = NDArray[np.uint8]

SPREAD = 0.33
"""The thresholds lie this share of the median below and above it."""

DARKEST = 8.0
"""A median below this many grey levels counts as this: in a black image all noise is no edge."""

BORDER = 2
"""Pixels inside the picture's own border that carry no edge: there resizing has mixed in zeros."""

VERSION = "canny-1"


@dataclass(frozen=True)
class Edges:
    """Edges and what they were found with.

    Attributes:
        packed: (N, S, ceil(S / 8)) uint8, eight pixels a byte.
        thresholds: (N, 2) float32, low and high, in grey levels of the gradient's magnitude.
        sizes: (N, 2) int64, height and width of the picture; beyond it is padding.
        side: S.
    """

    packed: NDArray[np.uint8]
    thresholds: NDArray[np.float32]
    sizes: NDArray[np.int64]
    side: int

    def __len__(self) -> int:
        return len(self.packed)

    def of(self, indices: NDArray[np.int64] | slice) -> NDArray[np.float32]:
        """(n, S, S) float32 in {0, 1} of the images asked for."""
        bits = np.unpackbits(self.packed[indices], axis=-1, count=self.side)
        return bits.astype(np.float32)

    def pictures(self, indices: NDArray[np.int64] | slice) -> NDArray[np.bool_]:
        """(n, S, S) whether a pixel belongs to the picture and not to the padding."""
        height, width = self.sizes[indices].T[:, :, None, None]
        at = np.arange(self.side)
        inside: NDArray[np.bool_] = (at[:, None] < height) & (at < width)
        return inside

    def hints(self, indices: NDArray[np.int64] | slice) -> NDArray[np.float32]:
        """(n, S, S) float32: 1 an edge, 0 none, -1 padding.

        Devices differ in the shape of their picture: told where it ends, the model need not
        learn that the source's pictures are wide and the targets' are high.
        """
        return np.where(self.pictures(indices), self.of(indices), np.float32(-1))


def find_edges(images_NSS: Squares) -> Edges:
    """Canny edges with thresholds from each image's own median grey level.

    Where the picture ends and the padding (zeros right and below) begins is no edge, nor is the
    picture's own border.

    Args:
        images_NSS: (N, S, S) uint8.
    """
    side = images_NSS.shape[-1]
    packed = np.zeros((len(images_NSS), side, -(-side // 8)), np.uint8)
    thresholds = np.zeros((len(images_NSS), 2), np.float32)
    sizes = np.zeros((len(images_NSS), 2), np.int64)
    for place, image in enumerate(images_NSS):
        sizes[place] = _size(image)
        found, thresholds[place] = _edges(np.asarray(image), *sizes[place])
        packed[place] = np.packbits(found, axis=-1)
    return Edges(packed, thresholds, sizes, side)


def kept_edges(folder: Path, images_NSS: Squares) -> Edges:
    """`find_edges`, kept in a folder of the site's own under the images' SHA-256.

    Args:
        folder: Where they are kept; made where it is missing.
        images_NSS: (N, S, S) uint8.
    """
    path = folder / f"{digest_of_images(images_NSS)}.npz"
    if path.exists():
        with np.load(path, allow_pickle=False) as kept:
            side = images_NSS.shape[-1]
            return Edges(kept["packed"], kept["thresholds"], kept["sizes"], side)
    edges = find_edges(images_NSS)
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    with part.open("wb") as file:
        np.savez(file, packed=edges.packed, thresholds=edges.thresholds, sizes=edges.sizes)
    part.replace(path)
    return edges


def digest_of_images(images_NSS: Squares) -> str:
    """SHA-256 over shape and pixels, and over how edges are found."""
    digest = hashlib.sha256(f"{VERSION}|{images_NSS.shape}|".encode())
    for image in images_NSS:
        digest.update(np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()


def _edges(
    image_SS: NDArray[np.uint8], height: int, width: int
) -> tuple[NDArray[Any], tuple[float, float]]:
    if not height:
        return np.zeros(image_SS.shape, bool), (0.0, 0.0)
    median = max(DARKEST, float(np.median(image_SS[:height, :width])))
    low, high = (1 - SPREAD) * median, (1 + SPREAD) * median
    # Speckle grows with the picture: one pixel's smoothing up to 256, two at 512.
    sigma = max(1.0, image_SS.shape[0] / 256)
    inner = np.zeros(image_SS.shape, bool)
    inner[BORDER : height - BORDER, BORDER : width - BORDER] = True
    # scikit-image says the types of its arguments and not that of what it gives.
    found: NDArray[Any] = canny(  # type: ignore[no-untyped-call]
        image_SS.astype(np.float32), sigma, low, high, mask=inner
    )
    return found, (low, high)


def _size(image_SS: NDArray[np.uint8]) -> tuple[int, int]:
    """Height and width up to the last row and the last column that hold anything."""
    rows, columns = np.flatnonzero(image_SS.any(1)), np.flatnonzero(image_SS.any(0))
    return (int(rows[-1]) + 1, int(columns[-1]) + 1) if len(rows) else (0, 0)

"""The rows that an arm selected and experts have annotated: what the last trainings train on."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clients.annotations import annotated, counted_outlines
from clients.classifiers import label_codes
from clients.data.preprocess import square_mask
from clients.data.site import SiteData
from clients.request import Request
from clients.settings import SiteSettings
from clients.words import read_mask_of
from common.config.study import Study
from common.errors import InputError


def annotated_rows(request: Request, data: SiteData) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What the experts have said of a training's selection at its budget.

    Returns:
        Rows in the manifest's order, and (N,) the class of each of the site's rows, -1 where
        nobody has said.

    Raises:
        InputError: If a label is none of the study's, or an annotated image is not the site's.
    """
    training, site = request.training, request.site
    images, labels = annotated(site.folder, training.selection, training.budget)
    rows = _rows_named(data, images, site.name)
    codes_N = np.full(len(data), -1, dtype=np.int64)
    codes_N[rows] = label_codes(labels, images, request.study.labels, site.name)
    return np.sort(rows), codes_N


@dataclass(frozen=True)
class Outlined:
    """The annotated images of a selection that have a mask, and where each mask is from.

    Attributes:
        data: The site's.
        rows: In the manifest's order.
        drawn: Row to its mask, (S, S) uint8 class numbers, where experts outlined it at the site;
            the other masks are the manifest's.
    """

    data: SiteData
    rows: NDArray[np.int64]
    drawn: Mapping[int, NDArray[np.uint8]]

    def masks(self, chosen: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Masks of rows: (n, C, S, S) uint8 in {0, 1}, as `SiteData.masks` gives them."""
        side, classes = self.data.side, max(len(self.data.classes), 1)
        found = np.zeros((len(chosen), classes, side, side), np.uint8)
        given = [place for place, row in enumerate(chosen) if int(row) not in self.drawn]
        if given:
            found[given] = self.data.masks(chosen[given], stage="annotate")
        for place, row in enumerate(chosen):
            plane = self.drawn.get(int(row))
            if plane is not None:
                found[place] = plane[None] == np.arange(1, classes + 1)[:, None, None]
        return found


def outlined(site: SiteSettings, study: Study, arm: str, budget: float, data: SiteData) -> Outlined:
    """The annotated images of a selection that have a mask; what experts drew counts first.

    Raises:
        InputError: If an annotated image is not the site's, or a drawn mask is another now.
    """
    images, _ = annotated(site.folder, arm, budget)
    rows = _rows_named(data, images, site.name)
    counted = counted_outlines(site.folder)
    classes = len(study.classes)
    drawn = {
        int(row): square_mask(
            read_mask_of(site.folder, counted[image], classes), data.side, max(classes, 1)
        )
        for image, row in zip(images, rows, strict=True)
        if image in counted
    }
    kept = [int(row) for row in np.sort(rows) if data.has_mask[row] or int(row) in drawn]
    return Outlined(data, np.array(kept, dtype=np.int64), drawn)


def outlined_images(request: Request, data: SiteData) -> Outlined:
    """Those of a training's annotated images that have a mask.

    Raises:
        InputError: If none has, an annotated image is not the site's, or a drawn mask is another
            now.
    """
    training, site = request.training, request.site
    found = outlined(site, request.study, training.selection, training.budget, data)
    if not len(found.rows):
        images, _ = annotated(site.folder, training.selection, training.budget)
        raise InputError(
            f"site {site.name}: none of the {len(images)} annotated images of "
            f"{training.selection} has a mask (stage {training.stage})"
        )
    return found


def _rows_named(data: SiteData, images: list[str], site: str) -> NDArray[np.int64]:
    """Rows of images by their ids, in their order."""
    places = {row.id: place for place, row in enumerate(data.rows)}
    unknown = [image for image in images if image not in places]
    if unknown:
        raise InputError(
            f"site {site}: {unknown[0]!r} is annotated but no image of the site"
            + (f", as are {len(unknown) - 1} more" if len(unknown) > 1 else "")
        )
    return np.array([places[image] for image in images], dtype=np.int64)

"""The rows that an arm selected and experts have annotated: what the last trainings train on."""

import numpy as np
from numpy.typing import NDArray

from clients.annotations import annotated
from clients.classifiers import label_codes
from clients.data.site import SiteData
from clients.request import Request
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


def outlined_rows(request: Request, data: SiteData) -> NDArray[np.int64]:
    """Those of the annotated rows that have a mask, in the manifest's order.

    Raises:
        InputError: If none has, or an annotated image is not the site's.
    """
    training, site = request.training, request.site
    images, _ = annotated(site.folder, training.selection, training.budget)
    rows = np.sort(_rows_named(data, images, site.name))
    outlined: NDArray[np.int64] = rows[data.has_mask[rows]]
    if not len(outlined):
        raise InputError(
            f"site {site.name}: none of the {len(rows)} annotated images of {training.selection} "
            f"has a mask (stage {training.stage})"
        )
    return outlined


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

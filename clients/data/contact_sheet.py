"""One picture of a site's data: thumbnails with their masks' outlines, to be looked at."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import binary_erosion

from clients.data.check import CheckReport
from clients.data.manifest import Row
from clients.data.preprocess import square_image, square_mask
from clients.data.readers import Reader, UnreadableError, fitting_mask, read_image, read_mask

THUMBNAIL = 160
CAPTION = 26
GAP = 4
COLUMNS = 8
LIMIT = 48
OUTLINES = ((255, 196, 0), (0, 200, 255), (255, 90, 200), (140, 255, 90))
SIDE_COLOURS = {"train": (170, 170, 170), "val": (120, 200, 255), "test": (255, 150, 90)}


def contact_sheet(
    report: CheckReport, reader: Reader, path: Path, *, classes: int = 0, limit: int = LIMIT
) -> int:
    """Draws up to `limit` images spread evenly over devices, labels and sides of the split.

    Args:
        report: What `check_folder` found; unreadable images are shown as crossed boxes.
        reader: The site's reader.
        path: PNG to write, in one step.
        classes: 0 for binary masks, else the number of classes.
        limit: Most thumbnails drawn.

    Returns:
        The number of images drawn.

    Raises:
        OSError: If the file cannot be written.
    """
    sides = report.sides()
    chosen = _spread(report.rows, sides, limit)
    lines = max(1, -(-len(chosen) // COLUMNS))
    step, cell = THUMBNAIL + GAP, THUMBNAIL + CAPTION + GAP
    sheet = Image.new("RGB", (COLUMNS * step - GAP, CAPTION + lines * cell), (36, 36, 36))
    draw = ImageDraw.Draw(sheet)
    counts = ", ".join(f"{number} {name}" for name, number in report.counts.items() if number)
    synthetic = ", SYNTHETIC" if any(row.extra.get("synthetic") for row in report.rows) else ""
    draw.text((6, 7), f"{report.name}: {counts}{synthetic}", fill=(255, 255, 255))
    for place, index in enumerate(chosen):
        row, side = report.rows[index], sides[index]
        x, y = place % COLUMNS * step, CAPTION + place // COLUMNS * cell
        try:
            sheet.paste(Image.fromarray(_thumbnail(row, reader, classes)), (x, y))
        except UnreadableError:
            draw.line((x, y, x + THUMBNAIL, y + THUMBNAIL), fill=(255, 60, 60))
            draw.line((x, y + THUMBNAIL, x + THUMBNAIL, y), fill=(255, 60, 60))
        colour = SIDE_COLOURS.get(side, SIDE_COLOURS["train"])
        draw.text((x + 3, y + THUMBNAIL), row.id[-26:], fill=(230, 230, 230))
        draw.text((x + 3, y + THUMBNAIL + 12), f"{row.label} {side}".strip()[:26], fill=colour)
    part = path.with_name(f".{path.name}.part")
    sheet.save(part, format="PNG")
    part.replace(path)
    return len(chosen)


def _spread(rows: Sequence[Row], sides: Sequence[str], limit: int) -> list[int]:
    """Evenly spaced indices over the rows sorted by kind."""
    order = sorted(
        range(len(rows)), key=lambda i: (rows[i].device, rows[i].label, sides[i], rows[i].number)
    )
    places = np.linspace(0, len(order) - 1, min(limit, len(order))).round().astype(int)
    return [order[place] for place in places]


def _thumbnail(row: Row, reader: Reader, classes: int) -> NDArray[np.uint8]:
    grey = read_image(reader, row.image, row.frame)
    rgb = np.repeat(square_image(grey, THUMBNAIL)[..., None], 3, axis=2)
    if row.mask is not None:
        values = read_mask(reader, row.mask, row.frame, classes=classes)
        try:
            values = fitting_mask(values, row.image, (grey.shape[0], grey.shape[1]))
        except UnreadableError:
            return rgb  # the check has said that it does not fit
        plane = square_mask(values, THUMBNAIL, classes)
        for k in range(1, max(classes, 1) + 1):
            member = plane == k
            edge = member & ~binary_erosion(member)
            rgb[edge] = OUTLINES[(k - 1) % len(OUTLINES)]
    return rgb

"""The screenshots of docs/annotate.md, from the phantom's images alone.

`.venv/bin/python -m tests.docs.desk_pictures docs` writes docs/desk-*.png; it needs Chromium.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.ndimage import binary_dilation, shift
from skimage import measure as untyped

from clients.asked import Asked
from clients.data.readers import read_pillow
from clients.desk.desk import Desk
from clients.settings import SiteSettings
from tests.clients.desk.browser import chromium, served
from tests.clients.desk.test_browser import Reader
from tests.clients.reading import reading_site, reading_study, rows_of

COLOURS, GREYS = 96, 28
SIDE = 320
SETTLE_S = 0.6


def main(folder: Path) -> None:
    """Read as two readers would, and look."""
    with tempfile.TemporaryDirectory() as root:
        site = reading_site(Path(root), patients=9, frames=6, side=SIDE, wanted=24)
        asked = Asked.of(reading_study(outlines=True)).model_copy(update={"synthetic": True})
        with served(Desk(site, asked)) as door, chromium((1280, 860)) as browser:
            reader = Reader(browser, SIDE)
            reader.enter(door, "Dr Okafor")
            for place in range(5):
                outline(reader, site, place, 0)
                reader.keys("2" if place % 2 else "1")
                reader.until(lambda n=place + 2: reader.text("#rank") == f"No. {n}")  # type: ignore[misc]
            outline(reader, site, 5, 0)
            save(browser, folder / "desk-read.png")
            reader.enter(door, "Dr Lind")
            outline(reader, site, 0, 14)
            reader.keys("2")
            reader.until(lambda: reader.text("#rank") == "No. 2")
            reader.one("[data-tab=disputed]").click()
            reader.until(lambda: reader.one("#words").is_displayed())
            save(browser, folder / "desk-decide.png")


def outline(reader: Reader, site: SiteSettings, place: int, aside: float) -> None:
    """Click around the phantom's own lesion, or beside it."""
    title = reader.one("#list [aria-current] .id").get_attribute("title")
    row = next(row for row in rows_of(site) if row.id == title)
    assert row.mask is not None, place
    mask: Any = read_pillow(row.mask) > 127
    if aside:
        mask = binary_dilation(shift(mask.astype(float), (aside, aside)) > 0.5, iterations=6)
    measure: Any = untyped
    contours = measure.find_contours(np.pad(mask.astype(float), 1), 0.5)
    reader.keys("p")
    if not contours:
        reader.keys("x")
    else:
        points = measure.approximate_polygon(max(contours, key=len), 1.2)[:-1] - 0.5
        reader.click(*[(float(x), float(y)) for y, x in points])
        reader.keys("\ue007")
    reader.saved()
    reader.keys("v")


def save(browser: Any, path: Path) -> None:
    """A screenshot in few greys and the page's own colours, to be small."""
    time.sleep(SETTLE_S)
    browser.save_screenshot(str(path))
    with Image.open(path) as picture:
        rgb_HW3 = np.asarray(picture.convert("RGB"))
    spread = rgb_HW3.max(axis=2).astype(int) - rgb_HW3.min(axis=2)
    coloured = Image.fromarray(rgb_HW3[spread > 6].reshape(1, -1, 3)).quantize(COLOURS)
    greys = np.repeat(np.linspace(0, 255, GREYS).round().astype(int), 3).tolist()
    palette = Image.new("P", (1, 1))
    palette.putpalette(greys + (coloured.getpalette() or [])[: 3 * COLOURS])
    small = Image.fromarray(rgb_HW3).quantize(palette=palette, dither=Image.Dither.NONE)
    small.save(path, optimize=True)
    print(path, f"{path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""P1's layout: `Images/`, `Masks/` and one CSV of `filename,videoname,framenum`."""

from pathlib import Path

from clients.data.importers.layout import Found, Item, folder_named, read_csv
from clients.data.readers import SUFFIXES

COLUMNS = ("filename", "videoname", "framenum")


def read_pocus_csv(source: Path) -> Found:
    """Reads the CSV; a mask has its image's name, and an image without one is unlabelled.

    The layout knows no patients; a column `patient`, `label`, `device`, `group` or `split` is
    taken over where the CSV has it. Without them the frames of one video stay together.
    """
    found = Found()
    tables = sorted(source.glob("*.csv"))
    if len(tables) != 1:
        names = ", ".join(path.name for path in tables) or "none"
        found.problems.append(f"{source}: must hold exactly one CSV file; there is: {names}")
        return found
    (path,) = tables
    images, masks = folder_named(source, "Images"), folder_named(source, "Masks")
    if not images.is_dir():
        found.problems.append(f"{images}: there is no such folder")
    for record in read_csv(path, COLUMNS, found.problems):
        place = f"{path}: row {record.pop('#')}"
        name, video, frame = (record.pop(column) for column in COLUMNS)
        if frame.endswith(".0"):  # what a spreadsheet makes of whole numbers
            frame = frame.removesuffix(".0")
        if frame and not frame.isdecimal():
            found.problems.append(f"{place}: framenum '{frame}' is no whole number from 0 up")
        image = _picture(images, name)
        if image is None:
            found.problems.append(f"{place}: {images / name} is not there")
            continue
        mask = _picture(masks, name)
        values = {"id": image.stem, "video": video, "frame": frame, **record}
        found.items.append(Item(image, values, (mask,) if mask else ()))
    return found


def _picture(folder: Path, name: str) -> Path | None:
    """The file of that name, or of that name with any picture's suffix."""
    if not name or Path(name).name != name:
        return None
    if (folder / name).is_file():
        return folder / name
    stem = Path(name).stem if Path(name).suffix.lower() in SUFFIXES else name
    found = [folder / f"{stem}{suffix}" for suffix in sorted(SUFFIXES)]
    return next((path for path in found if path.is_file()), None)

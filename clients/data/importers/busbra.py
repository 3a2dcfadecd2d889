"""BUS-BRA (Gomez-Flores 2024): `Images/bus_0001-l.png`, `Masks/mask_0001-l.png`, bus_data.csv."""

from pathlib import Path

from clients.data.importers.layout import Found, Item, folder_named, read_csv

TABLE = "bus_data.csv"
COLUMNS = {"Case": "patient", "Pathology": "label", "Device": "device"}
FURTHER = {"Histology": "histology", "BIRADS": "birads", "Side": "side"}


def read_busbra(source: Path) -> Found:
    """Reads bus_data.csv: ID, Case, Histology, Pathology, BIRADS, Device, Width, ..., Side, BBOX.

    `Case` is the patient. Histology, BIRADS and Side become further columns. Width, Height and
    BBOX say what the files say. Images that the table does not name are reported.
    """
    found = Found()
    path = source / TABLE
    images, masks = folder_named(source, "Images"), folder_named(source, "Masks")
    found.problems += [
        f"{folder}: there is no such folder" for folder in (images, masks) if not folder.is_dir()
    ]
    named = set()
    for record in read_csv(path, ["ID", *COLUMNS], found.problems):
        identity = record["ID"].removesuffix(".png")
        place = f"{path}: row {record['#']}"
        image = images / f"{identity}.png"
        mask = masks / f"mask_{identity.removeprefix('bus_')}.png"
        named.add(image.name)
        missing = [file for file in (image, mask) if not file.is_file()]
        found.problems += [f"{place}: {file} is not there" for file in missing]
        if not record["Case"]:
            found.problems.append(f"{place}: the column 'Case' is empty")
        values = {"id": identity}
        values |= {name: record[column] for column, name in COLUMNS.items()}
        values["label"] = values["label"].lower()
        values["patient"] = (
            f"case_{int(values['patient']):04d}"
            if (values["patient"].isdecimal())
            else values["patient"]
        )
        values |= {name: record[column] for column, name in FURTHER.items() if column in record}
        if not missing:
            found.items.append(Item(image, values, (mask,)))
    if images.is_dir() and not found.problems:
        found.problems += [
            f"{file}: {TABLE} has no row for it"
            for file in sorted(images.glob("*.png"))
            if file.name not in named
        ]
    return found

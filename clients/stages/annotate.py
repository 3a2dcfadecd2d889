"""annotate: labels of the selected images come to the site; counts go back.

In a simulation the manifest's own labels play the experts. Elsewhere experts' labels come from the
desk (`sonofed site desk`) or through `sonofed labels import`, and each request only counts them.
The step `close` settles the labels and outlines that the study goes on with.
"""

from collections.abc import Mapping

from clients.annotations import annotated, close_labels, read_worklist
from clients.asked import keep_asked
from clients.consensus import words_of
from clients.data.cache import Digests
from clients.data.site import SiteData
from clients.request import Request, Result
from clients.selected import outlined
from clients.site import open_site
from clients.words import PLAYED, Label, add_labels, read_labels, read_outlines, utc
from common.config.selection import budget_name
from common.errors import InputError

READER = PLAYED
NO_TIME = utc("1970-01-01")
"""When the manifest's labels are said to have come: a real reader's are always later."""
TOLD = 5
"""Changed images that are named one by one."""


def run(request: Request) -> Result:
    """Count wanted and annotated images by arm and budget.

    Raises:
        InputError: If an arm has not selected yet, or an annotated image's file is another now.
    """
    folder = request.site.folder
    keep_asked(folder, request.study)
    wanted = _wanted(request)
    data = open_site(request.site, request.study)
    digests = _digests(data, wanted)
    if request.study.annotate.labels == "hidden":
        _take_hidden(request, data, digests)
    _check_images(request, digests)
    if request.step == "close":
        close_labels(folder)
    counts: dict[str, float | int] = {}
    for selection in request.plan.selections.values():
        for budget in selection.budgets:
            stem = f"{selection.arm}.{budget_name(budget)}"
            counts[f"{stem}.wanted"] = len(read_worklist(folder, selection.arm, budget))
            counts[f"{stem}.annotated"] = len(annotated(folder, selection.arm, budget)[0])
    for arm, budget in request.plan.outlining:
        rows = outlined(request.site, request.study, arm, budget, data).rows
        counts[f"{arm}.{budget_name(budget)}.outlined"] = len(rows)
    return Result(counts)


def _wanted(request: Request) -> list[str]:
    """Images of any worklist, each once."""
    return list(
        dict.fromkeys(
            choice.id
            for selection in request.plan.selections.values()
            for budget in selection.budgets
            for choice in read_worklist(request.site.folder, selection.arm, budget)
        )
    )


def _digests(data: SiteData, wanted: list[str]) -> dict[str, str]:
    """SHA-256 of each wanted image's file."""
    known = Digests(data.settings.cache)
    files = {row.id: row.image for row in data.rows}
    found = {id_: known.of(files[id_]) for id_ in wanted}
    known.save()
    return found


def _take_hidden(request: Request, data: SiteData, digests: Mapping[str, str]) -> None:
    """The manifest's labels as a reader's, for images that have no label yet."""
    known = words_of(read_labels(request.site.folder))
    places = {row.id: place for place, row in enumerate(data.rows)}
    ids = [id_ for id_ in digests if id_ not in known]
    labels = data.labels([places[id_] for id_ in ids], stage="annotate")
    new = [
        Label(id_, label, READER, NO_TIME, digests[id_])
        for id_, label in zip(ids, labels, strict=True)
        if label in request.study.labels
    ]
    add_labels(request.site.folder, new)


def _check_images(request: Request, digests: Mapping[str, str]) -> None:
    folder = request.site.folder
    seen: dict[str, set[str]] = {}
    for words in (words_of(read_labels(folder)), words_of(read_outlines(folder))):
        for id_, of_image in words.items():
            seen.setdefault(id_, set()).update(word.image_sha256 for word in of_image.values())
    changed = [id_ for id_, digest in digests.items() if seen.get(id_, {digest}) != {digest}]
    if changed:
        more = f", and {len(changed) - TOLD} more" if len(changed) > TOLD else ""
        raise InputError(
            f"site {request.site.name}: {len(changed)} images are no longer those that were "
            f"annotated: {', '.join(map(repr, changed[:TOLD]))}{more}"
        )

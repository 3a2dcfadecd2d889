"""The site's own report of an evaluation: its images with outlines and maps. It stays here."""

import json
from collections.abc import Mapping

import numpy as np

from clients.data.site import SiteData
from clients.infusion import confidence_kind
from clients.pictures import make_cases
from clients.predictions import fused_predictions
from clients.report import Table, choose, write_report
from clients.request import Request
from clients.site import judged_rows
from common.formats import EpochLine


def write_page(
    request: Request, data: SiteData, table: Table, metrics: Mapping[str, float], main: str
) -> None:
    """Write `report.html` into the site's own folder (P1 Figs. 5 and 6 on its own images)."""
    study, site = request.study, request.site
    rows = judged_rows(data)
    names = [data.rows[row].id for row in rows]
    chosen = choose(table, main, study.evaluate.overlays)
    places = np.array([names.index(name) for name in chosen], dtype=np.int64)
    shown = rows[places]
    arms = {name: arm for name, arm in request.plan.arms.items() if arm.members.get(site.name)}
    fused = {name: fused_predictions(request, arm, places)[0] for name, arm in arms.items()}
    members = arms[main].members[site.name]
    branches = fused_predictions(request, arms[main], places)[1]
    referenced = bool(data.has_mask[rows].all())
    cases = make_cases(
        chosen,
        data.images(shown),
        data.masks(shown, stage="evaluate") if referenced else None,
        fused,
        dict(zip(members, branches, strict=True)),
        confidence=confidence_kind(arms[main].infusion),
        scope=study.infusion.scope,
    )
    write_report(
        site.folder,
        site=site.name,
        role=site.role,
        unit=data.split.unit,
        study=study.name,
        digest=study.digest,
        synthetic=data.synthetic,
        main=main,
        metrics=metrics,
        table=table,
        cases=cases,
        epochs=_epochs(request),
        classes=study.classes,
        threshold=study.infusion.threshold,
    )


def _epochs(request: Request) -> list[EpochLine]:
    path = request.site.folder / "epochs.jsonl"
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [EpochLine.model_validate(json.loads(line)) for line in lines]

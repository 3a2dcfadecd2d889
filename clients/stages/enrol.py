"""enrol: a site says how large it is, in counts."""

import numpy as np

from clients.request import Request, Result
from clients.site import check_batches, open_site
from common.wire.vocabulary import UNITS


def run(request: Request) -> Result:
    """Open the data and count.

    Raises:
        InputError: If the data are not sound, or too few for a batch of some stage.
    """
    data = open_site(request.site, request.study)
    check_batches(data, request.site, request.study, list(request.plan.trainings.values()))
    split = data.split
    pool = np.concatenate([split.train, split.val])
    return Result(
        {
            "site": list(request.study.sites).index(request.site.name),
            "images": len(data.rows),
            "patients": len(np.unique(data.clusters)),
            "videos": len(set(data.videos[data.videos >= 0].tolist())),
            "train_images": len(split.train),
            "train_patients": len(np.unique(data.clusters[pool])),
            "val_images": len(split.val),
            "test_images": len(split.test),
            "test_patients": len(np.unique(data.clusters[split.test])),
            "masks": int(data.has_mask.sum()),
            "unit": UNITS.index(split.unit),
        }
    )

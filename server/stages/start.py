"""What each training starts from: the server half of mim, contrastive, finetune and adapt.

Everything random is drawn here, from the study's seed, so that all arms share it.
"""

from pathlib import Path
from typing import cast

from common.config.stages import Finetune
from common.models.branches import (
    State,
    encoder_of,
    fresh,
    join_members,
    load_shared,
    shared_state,
)
from common.models.transunet import TransUNet
from common.models.weights import load_local
from common.plan import Training
from server.context import ServerContext


def starting_weights(context: ServerContext, training: Training) -> State:
    """The weights that go out in a training's first round.

    - mim, contrastive: random.
    - finetune_mim, finetune_contrastive: the pretrained encoder; decoder and head fresh (P1 3.2.1).
    - lower, upper: random, or [model].weights with `from_weights`.
    - adapt: its members side by side.
    """
    study = context.study
    norm = study.federation.norm
    if training.stage == "adapt":
        return join_members([context.result(key) for key in training.start])
    network = fresh(study, training)
    settings = training.settings
    if isinstance(settings, Finetune) and settings.from_weights:
        load_local(cast(TransUNet, network), Path(study.model.weights))
    if training.start:
        load_shared(network, encoder_of(context.result(training.start[0])))
    return shared_state(network, norm)

"""What each training starts from: the server half of mim, contrastive, finetune and adapt.

Everything random is drawn here, from the study's seed, so that all arms share it.
"""

from pathlib import Path
from typing import cast

from common.config.selection import SourceClassifier
from common.config.stages import Finetune
from common.models.branches import (
    State,
    encoder_of,
    fresh,
    join_members,
    load_shared,
    norm_of,
    shared_state,
)
from common.models.classifier import Classifier, load_classifier_weights
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
    - source_classifier: random, or ImageNet weights from a local file; diffusion: random.
    - sphere: the source's classifier under a random projector (P2 2.2); classify: that classifier.
    - finetune_selected: the member that the source fine-tuned.
    """
    study = context.study
    norm = norm_of(study, training)
    if training.stage == "adapt":
        return join_members([context.result(key) for key in training.start])
    if training.stage in ("classify", "finetune_selected"):
        return context.result(training.start[0])
    network = fresh(study, training)
    settings = training.settings
    if training.stage == "sphere":
        from common.models.sphere import SphereNetwork, from_classifier

        from_classifier(cast(SphereNetwork, network), context.result(training.start[0]))
        return shared_state(network, norm)
    if isinstance(settings, SourceClassifier) and training.architecture in settings.weights:
        load_classifier_weights(
            cast(Classifier, network), Path(settings.weights[training.architecture])
        )
    if isinstance(settings, Finetune) and settings.from_weights:
        load_local(cast(TransUNet, network), Path(study.model.weights))
    if training.start:
        load_shared(network, encoder_of(context.result(training.start[0])))
    return shared_state(network, norm)

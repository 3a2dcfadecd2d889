"""Labels as numbers, and what a classifier says of images."""

from pathlib import Path

import numpy as np
import pytest
import torch

from clients.classifiers import (
    features_of,
    keep_classifier,
    label_codes,
    load_classifier,
    own_classifier,
    plain,
    probabilities_of,
    ready,
)
from common.errors import InputError
from common.models.branches import shared_state
from common.models.classifier import Classifier
from tests.clients.classifying import ARCHITECTURE, SIDE, study_of

STUDY = study_of()


def network() -> Classifier:
    torch.manual_seed(0)
    return Classifier(ARCHITECTURE, 2, SIDE)


def images(count: int) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE), dtype=np.uint8)


def test_labels_are_the_studys_places() -> None:
    codes = label_codes(["malignant", "benign"], ["a", "b"], ("benign", "malignant"), "bo")
    assert codes.tolist() == [1, 0]
    with pytest.raises(InputError) as caught:
        label_codes(["cyst"] * 9, [f"i{n}" for n in range(9)], ("benign", "malignant"), "bo")
    assert len(caught.value.problems) == 6
    assert "'i0' has the label 'cyst'" in caught.value.problems[0]
    assert caught.value.problems[-1] == "and 4 more such images"


@pytest.mark.parametrize("architecture", ["tf_efficientnet_lite0", "shufflenet_v2_x0_5"])
def test_a_row_depends_on_its_image_alone(architecture: str) -> None:
    """To the last bit: in 70 images, and spread over sites of 5, 64 and 1."""
    torch.manual_seed(0)
    classifier = Classifier(architecture, 2, 96)
    ready(classifier, STUDY.compute)
    pool = np.random.default_rng(0).integers(0, 256, (70, 96, 96), dtype=np.uint8)
    whole = features_of(classifier, pool, STUDY.compute)
    parts = [
        features_of(classifier, pool[a:b], STUDY.compute) for a, b in ((0, 5), (5, 69), (69, 70))
    ]
    assert np.concatenate(parts).tobytes() == whole.tobytes()


def test_features_and_probabilities_are_those_of_single_images() -> None:
    state = shared_state(network())
    classifier = load_classifier(STUDY, ARCHITECTURE, state)
    pool = images(70)  # more than a batch of 64
    features, said = (
        say(classifier, pool, STUDY.compute) for say in (features_of, probabilities_of)
    )
    assert features.shape == (70, classifier.width)
    assert said.shape == (70, 2)
    assert features.dtype == said.dtype == np.float32
    assert np.allclose(said.sum(axis=1), 1, atol=1e-6)
    alone = network().eval()
    with torch.inference_mode():
        for place in (0, 69):
            one = torch.from_numpy(pool[place])[None, None] / 255
            assert np.allclose(alone.features(one).numpy(), features[place], atol=1e-5)
            assert np.allclose(alone(one).softmax(1).numpy(), said[place], atol=1e-5)


def test_channels_last_and_back_changes_no_weight() -> None:
    classifier = network()
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    ready(classifier, STUDY.compute)
    assert any(not t.is_contiguous() for t in classifier.state_dict().values())
    plain(classifier)
    for name, tensor in classifier.state_dict().items():
        assert tensor.is_contiguous()
        assert torch.equal(tensor, before[name])


def test_a_kept_classifier_is_found_again(tmp_path: Path) -> None:
    state = shared_state(network())
    assert own_classifier(tmp_path, ARCHITECTURE) is None
    keep_classifier(tmp_path, ARCHITECTURE, state)
    found = own_classifier(tmp_path, ARCHITECTURE)
    assert found is not None
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
    assert [path.suffix for path in (tmp_path / "classifiers").iterdir()] == [".safetensors"]

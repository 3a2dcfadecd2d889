import copy

import pytest
import torch
from torch import Tensor, nn

from common.models.branches import shared_state
from common.models.classifier import Classifier
from common.models.sphere import SphereNetwork, from_classifier
from common.objectives.angular import angular_contrastive
from common.objectives.collapse import effective_rank, mean_angle

ARCHITECTURE = "resnet10t"


def made(dimension: int = 8) -> SphereNetwork:
    torch.manual_seed(0)
    return SphereNetwork(ARCHITECTURE, 16, dimension, 32)


def images(count: int = 6, seed: int = 1) -> Tensor:
    return torch.rand(count, 1, 32, 32, generator=torch.Generator().manual_seed(seed))


def test_teacher_and_student_start_alike_and_only_one_is_trained() -> None:
    network = made()
    student, teacher = network.student.state_dict(), network.teacher.state_dict()
    assert all(torch.equal(student[name], teacher[name]) for name in student)
    taught, predicted = network(images(), images(seed=2))
    assert taught.shape == predicted.shape == (6, 8)
    assert not taught.requires_grad
    angular_contrastive(taught, predicted).backward()  # type: ignore[no-untyped-call]
    with_gradient = {name for name, p in network.named_parameters() if p.grad is not None}
    assert with_gradient == {
        name for name, _ in network.named_parameters() if not name.startswith("teacher.")
    }
    assert len(network.trained()) == len(with_gradient)


def test_all_of_it_crosses() -> None:
    parts = {name.partition(".")[0] for name in shared_state(made())}
    assert parts == {"student", "predictor", "teacher"}
    with torch.device("meta"):
        meta = SphereNetwork(ARCHITECTURE, 16, 8, 32)
    assert [(n, t.shape) for n, t in shared_state(meta).items()] == [
        (n, t.shape) for n, t in shared_state(made()).items()
    ]


def test_the_embedding_is_the_projectors_and_of_unit_length() -> None:
    network = made().eval()
    with torch.inference_mode():
        z = network.embed(images())
        expected = network.student.projector(network.student.backbone.features(images()))
        assert torch.allclose(z.norm(dim=1), torch.ones(6), atol=1e-6)
        assert torch.allclose(z, expected / expected.norm(dim=1, keepdim=True), atol=1e-6)
        assert torch.equal(network.embed(images(), normalise=False), expected)
        alone = torch.cat([network.embed(image[None]) for image in images()])
    assert torch.allclose(alone, z, atol=1e-5)


def test_the_teacher_follows_by_hand() -> None:
    network = made()
    with torch.no_grad():
        for parameter in network.student.parameters():
            parameter.add_(1.0)
    before = copy.deepcopy(network.teacher.state_dict())
    network.follow(0.9)
    after, student = network.teacher.state_dict(), network.student.state_dict()
    parameters = dict(network.teacher.named_parameters())
    for name, tensor in after.items():
        expected = 0.9 * before[name] + 0.1 * student[name] if name in parameters else before[name]
        assert torch.allclose(tensor.double(), expected.double(), atol=1e-6), name


def test_both_backbones_start_from_the_sources_classifier() -> None:
    torch.manual_seed(3)
    classifier = Classifier(ARCHITECTURE, 2, 32).eval()
    network = made()
    projector = copy.deepcopy(network.student.projector.state_dict())
    from_classifier(network, shared_state(classifier))
    network.eval()
    with torch.inference_mode():
        expected = classifier.features(images())
        for side in (network.student, network.teacher):
            assert torch.equal(side.backbone.features(images()), expected)
    now = network.student.projector.state_dict()
    assert all(torch.equal(tensor, now[name]) for name, tensor in projector.items())


class Flat(nn.Module):
    """A backbone whose features are the pixels: the MLPs alone collapse fast enough to watch."""

    def features(self, images_BCHW: Tensor) -> Tensor:
        return images_BCHW.flatten(1)


@pytest.mark.parametrize("guarded", [True, False])
def test_without_its_guards_the_embedding_collapses(guarded: bool) -> None:
    """No predictor, no moving average, no stop-gradient: both figures fall; with them, not."""
    torch.manual_seed(0)
    network = SphereNetwork(ARCHITECTURE, 64, 8, 32)
    for side in (network.student, network.teacher):
        side.backbone = Flat()  # type: ignore[assignment]
    pool = torch.randn(128, 1, 16, 32)  # as many pixels as the backbone has features
    optimizer = torch.optim.Adam(network.trained(), 1e-2)
    for _ in range(300):
        images_B1HW = pool[torch.randint(128, (32,))]
        first, second = (images_B1HW + 0.3 * torch.randn_like(images_B1HW) for _ in range(2))
        if guarded:
            loss = angular_contrastive(*network(first, second))
        else:
            loss = angular_contrastive(network.student(first), network.student(second))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        network.follow(0.99)
    with torch.inference_mode():
        z_ND = network.eval().embed(pool).numpy()
    if guarded:
        assert mean_angle(z_ND) > 1.2
        assert effective_rank(z_ND) > 5
    else:
        assert mean_angle(z_ND) < 0.1
        assert effective_rank(z_ND) < 1.5

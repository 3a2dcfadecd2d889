import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from common.objectives.angular import Form, angles, angular_contrastive
from common.objectives.byol import byol

FORMS: tuple[Form, ...] = ("(m*theta)^2", "m*theta^2", "theta+m")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def slow(teacher: Tensor, student: Tensor, m: float, form: Form) -> float:
    """Pair by pair in Python floats, with the arc cosine."""
    total = 0.0
    for a, b in zip(teacher.tolist(), student.tolist(), strict=True):
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        lengths = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(y * y for y in b))
        theta = math.acos(max(-1.0, min(1.0, dot / lengths)))
        total += {
            "(m*theta)^2": (m * theta) ** 2,
            "m*theta^2": m * theta**2,
            "theta+m": (theta + m) ** 2,
        }[form]
    return total / len(teacher)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 7),
    dimension=st.integers(2, 9),
    m=st.floats(0.1, 8),
    seed=st.integers(0, 2**31),
)
def test_the_loss_is_the_plain_loops(
    form: Form, batch: int, dimension: int, m: float, seed: int
) -> None:
    teacher, student = normal(2, batch, dimension, seed=seed).double()
    found = float(angular_contrastive(teacher, student, m=m, form=form))
    assert found == pytest.approx(slow(teacher, student, m, form), rel=1e-6)


def test_the_defaults_are_equation_3() -> None:
    teacher = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    student = torch.tensor([[0.0, 2.0], [3.0, 3.0]])
    expected = ((4 * math.pi / 2) ** 2 + (4 * math.pi / 4) ** 2) / 2
    assert float(angular_contrastive(teacher, student)) == pytest.approx(expected)


@settings(max_examples=30, deadline=None)
@given(scale=st.floats(1e-3, 1e3), seed=st.integers(0, 2**31))
def test_turning_and_stretching_change_nothing(scale: float, seed: int) -> None:
    teacher, student = normal(2, 5, 6, seed=seed).double()
    turn, _ = torch.linalg.qr(normal(6, 6, seed=seed + 1).double())
    before = angular_contrastive(teacher, student)
    after = angular_contrastive(scale * teacher @ turn, student @ turn / scale)
    assert float(after) == pytest.approx(float(before), rel=1e-9)


def test_pairs_meet_and_nobody_else() -> None:
    """Another order of both changes nothing; of one alone, it does."""
    teacher, student = normal(2, 6, 4)
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    before = float(angular_contrastive(teacher, student))
    assert float(angular_contrastive(teacher[order], student[order])) == pytest.approx(before)
    assert abs(float(angular_contrastive(teacher, student[order])) - before) > 0.1
    assert float(angular_contrastive(teacher, teacher)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_gradient_is_finite_where_the_arc_cosine_has_none(
    form: Form, dtype: torch.dtype, sign: int
) -> None:
    z = normal(4, 8).to(dtype)
    for noise in (0.0, 1e-30, 1e-20, 1e-7, 1e-4):
        student = (sign * z + noise * normal(4, 8, seed=1).to(dtype)).requires_grad_()
        loss = angular_contrastive(z, student, form=form)
        loss.backward()  # type: ignore[no-untyped-call]
        assert student.grad is not None
        assert student.grad.isfinite().all()
        assert loss.dtype == torch.promote_types(dtype, torch.float32)
    theta = angles(z, sign * z)
    assert torch.allclose(theta, torch.full_like(theta, 0.0 if sign > 0 else math.pi), atol=1e-6)


def test_small_angles_keep_their_digits() -> None:
    """In float32 the arc cosine of this pair's dot product is 0."""
    theta = angles(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1e-5]]))
    assert float(theta) == pytest.approx(1e-5, rel=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_the_gradient_is_that_of_the_loss(form: Form) -> None:
    teacher, student = normal(2, 3, 5).double()
    assert torch.autograd.gradcheck(
        lambda s: angular_contrastive(teacher, s, m=2.0, form=form),
        student.requires_grad_(),
    )


def test_byol_is_the_squared_distance_of_unit_vectors() -> None:
    teacher, student = normal(2, 7, 5).double().numpy()
    unit_t = teacher / np.linalg.norm(teacher, axis=1, keepdims=True)
    unit_s = student / np.linalg.norm(student, axis=1, keepdims=True)
    expected = ((unit_t - unit_s) ** 2).sum(axis=1).mean()
    found = byol(torch.from_numpy(teacher), torch.from_numpy(student))
    assert float(found) == pytest.approx(expected, rel=1e-12)
    assert float(byol(torch.from_numpy(teacher), torch.from_numpy(-teacher))) == pytest.approx(4)

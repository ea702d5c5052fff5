"""The losses against the paper's formulas written as loops, against other libraries, and in closed form."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightly.loss import NTXentLoss
from open_clip.loss import ClipLoss, SigLipLoss
from torch import Tensor

from satmip_train.objectives.losses import (
    chance_level,
    contrastive_loss,
    metadata_image_loss,
    sigmoid_chance_level,
    sigmoid_loss,
    view_loss,
)

NEGATIVES = ["both", "cross"]


def embeddings(samples: int, dim: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, dim, generator=generator), torch.randn(samples, dim, generator=generator)


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def loss_of_anchor(anchor: list[float], positive: list[float], negatives: list[list[float]], tau: float) -> float:
    """Eq. 1 for one anchor."""
    denominator = sum(math.exp(cosine(anchor, b) / tau) for b in [positive, *negatives])
    return -math.log(math.exp(cosine(anchor, positive) / tau) / denominator)


def symmetrized(a: list[list[float]], b: list[list[float]], tau: float, same_view: bool) -> float:
    """Eq. 2 and 3, the mean over the batch; with `same_view`, the other rows of the anchor's own view are negatives too."""
    total = 0.0
    for anchors, candidates in ((a, b), (b, a)):
        for i in range(len(a)):
            negatives = [candidates[j] for j in range(len(a)) if j != i]
            if same_view:
                negatives += [anchors[j] for j in range(len(a)) if j != i]
            total += loss_of_anchor(anchors[i], candidates[i], negatives, tau)
    return total / (2 * len(a))


@settings(deadline=None, max_examples=30)
@given(samples=st.integers(1, 6), dim=st.integers(1, 5), tau=st.floats(0.05, 1.0), seed=st.integers(0, 1000))
def test_metadata_image_loss_is_equation_2(samples: int, dim: int, tau: float, seed: int) -> None:
    image, metadata = embeddings(samples, dim, seed)
    expected = symmetrized(image.tolist(), metadata.tolist(), tau, same_view=False)
    assert metadata_image_loss(image, metadata, 1 / tau).item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


@settings(deadline=None, max_examples=30)
@given(samples=st.integers(1, 6), dim=st.integers(1, 5), tau=st.floats(0.05, 1.0), seed=st.integers(0, 1000), both=st.booleans())
def test_view_loss_is_equation_3(samples: int, dim: int, tau: float, seed: int, both: bool) -> None:
    one, two = embeddings(samples, dim, seed)
    expected = symmetrized(one.tolist(), two.tolist(), tau, same_view=both)
    assert view_loss(one, two, tau, "both" if both else "cross").item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def gradients(loss: Tensor, *inputs: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, inputs))


def test_metadata_image_loss_is_open_clips_with_its_gradient() -> None:
    image, metadata = (x.requires_grad_() for x in embeddings(16, 8, 1))
    scale = torch.tensor(1 / 0.07, requires_grad=True)
    ours = metadata_image_loss(image, metadata, scale)
    unit = torch.nn.functional.normalize
    theirs = ClipLoss()(unit(image, dim=1), unit(metadata, dim=1), scale)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradients(ours, image, metadata, scale), gradients(theirs, image, metadata, scale))


def test_sigmoid_loss_is_open_clips_with_its_gradient() -> None:
    image, metadata = (x.requires_grad_() for x in embeddings(16, 8, 1))
    scale, bias = torch.tensor(10.0, requires_grad=True), torch.tensor(-10.0, requires_grad=True)
    ours = sigmoid_loss(image, metadata, scale, bias)
    unit = torch.nn.functional.normalize
    theirs = SigLipLoss()(unit(image, dim=1), unit(metadata, dim=1), scale, bias)
    torch.testing.assert_close(ours, theirs)
    inputs = (image, metadata, scale, bias)
    torch.testing.assert_close(gradients(ours, *inputs), gradients(theirs, *inputs), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("samples", [1, 2, 7])
def test_no_constant_answer_beats_the_chance_level_of_the_sigmoid_loss(samples: int) -> None:
    def loss(bias: float) -> float:
        same = torch.ones(samples, 4)
        return sigmoid_loss(same, same, torch.tensor(0.0), torch.tensor(bias)).item()

    level = sigmoid_chance_level(samples)
    best = -math.log(samples - 1) if samples > 1 else 50.0
    assert loss(best) == pytest.approx(level, abs=1e-5)
    assert all(loss(best + step) >= level - 1e-5 for step in (-1.0, -0.1, 0.1, 1.0))


def test_view_loss_with_both_negatives_is_lightlys_with_its_gradient() -> None:
    one, two = (x.requires_grad_() for x in embeddings(16, 8, 2))
    ours, theirs = view_loss(one, two, 0.1, "both"), NTXentLoss(temperature=0.1)(one, two)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradients(ours, one, two), gradients(theirs, one, two))


def test_view_loss_with_cross_negatives_is_the_metadata_image_loss_of_two_views() -> None:
    one, two = embeddings(16, 8, 3)
    torch.testing.assert_close(
        view_loss(one, two, 0.1, "cross"), ClipLoss()(*(x / x.norm(dim=1, keepdim=True) for x in (one, two)), 10.0)
    )


@pytest.mark.parametrize("samples", [1, 2, 7])
def test_equal_embeddings_give_the_chance_level(samples: int) -> None:
    same = torch.ones(samples, 4)
    assert metadata_image_loss(same, same, 1 / 0.07).item() == pytest.approx(math.log(samples), abs=1e-5)
    assert view_loss(same, same, 0.1, "cross").item() == pytest.approx(math.log(samples), abs=1e-5)
    assert view_loss(same, same, 0.1, "both").item() == pytest.approx(math.log(2 * samples - 1), abs=1e-5)
    assert chance_level(samples) == math.log(samples)
    assert chance_level(samples, "both") == math.log(2 * samples - 1)


def test_orthogonal_pairs_in_closed_form() -> None:
    # Every positive has similarity 1 and every negative 0.
    rows, tau, k = torch.eye(5), 0.5, 5
    assert view_loss(rows, rows, tau, "cross").item() == pytest.approx(math.log(1 + (k - 1) * math.exp(-1 / tau)))
    assert view_loss(rows, rows, tau, "both").item() == pytest.approx(math.log(1 + 2 * (k - 1) * math.exp(-1 / tau)))


def test_positive_columns_may_start_elsewhere() -> None:
    logits = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    expected = sum(torch.logsumexp(logits[i], 0) - logits[i, 3 + i] for i in range(2)) / 2
    torch.testing.assert_close(contrastive_loss(logits, first=3), expected)


@pytest.mark.parametrize("scale", [2.0, 100.0])
def test_losses_do_not_depend_on_the_length_of_embeddings(scale: float) -> None:
    image, metadata = embeddings(8, 6, 4)
    torch.testing.assert_close(metadata_image_loss(image * scale, metadata, 10.0), metadata_image_loss(image, metadata, 10.0))
    torch.testing.assert_close(view_loss(image * scale, metadata, 0.1), view_loss(image, metadata, 0.1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("autocast", [False, True])
def test_losses_are_float32_whatever_comes_in(dtype: torch.dtype, autocast: bool) -> None:
    image, metadata = (x.to(dtype) for x in embeddings(64, 16, 5))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        from_metadata, from_views = metadata_image_loss(image, metadata, 100.0), view_loss(image, metadata, 0.1)
        from_pairs = sigmoid_loss(image, metadata, torch.tensor(100.0), torch.tensor(-10.0))
    assert from_metadata.dtype == from_views.dtype == from_pairs.dtype == torch.float32
    # The same as from the rounded values in float32: nothing was computed in less.
    torch.testing.assert_close(from_metadata, metadata_image_loss(image.float(), metadata.float(), 100.0))
    torch.testing.assert_close(from_views, view_loss(image.float(), metadata.float(), 0.1))
    expected = sigmoid_loss(image.float(), metadata.float(), torch.tensor(100.0), torch.tensor(-10.0))
    torch.testing.assert_close(from_pairs, expected)


@pytest.mark.parametrize("negatives", NEGATIVES)
def test_gradients_are_finite_where_embeddings_are_zero_or_equal(negatives: str) -> None:
    rows = torch.zeros(4, 3, requires_grad=True)
    view_loss(rows, torch.ones(4, 3), 0.1, negatives).backward()  # type: ignore[arg-type]
    assert rows.grad is not None
    assert rows.grad.isfinite().all()

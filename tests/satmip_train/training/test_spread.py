"""Signs of collapse against numbers that are known, and against a run that must not notice that it is looked at."""

import numpy as np
import pytest
import torch
from torch import nn

from satmip_train.distributed import Job
from satmip_train.training.spread import Embeddings, spread

CPU = Job(torch.device("cpu"), 0, 1)


@pytest.mark.parametrize(("rows", "width"), [(40, 8), (8, 40), (24, 24)])
def test_spread_is_that_of_the_singular_values(rows: int, width: int) -> None:
    vectors = torch.randn(rows, width, generator=torch.Generator().manual_seed(0)) + 0.5
    values = np.linalg.svd(vectors.numpy().astype(float), compute_uv=False)
    shares = values / values.sum()
    unit = vectors.numpy() / np.linalg.norm(vectors.numpy(), axis=1, keepdims=True)
    found = spread(vectors)
    assert found["effective_rank"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-5)
    assert found["deviation"] == pytest.approx(unit.std(0).mean() * width**0.5, rel=1e-5)


def test_collapsed_and_spread_embeddings_are_told_apart() -> None:
    collapsed = spread(torch.ones(50, 16) * torch.arange(1, 51)[:, None])
    assert collapsed["deviation"] == pytest.approx(0, abs=1e-6)
    assert collapsed["effective_rank"] == pytest.approx(1, abs=1e-4)
    alike = spread(torch.eye(16).repeat(4, 1) * torch.tensor([1.0, -1.0] * 32)[:, None])
    assert alike["effective_rank"] == pytest.approx(16)
    assert alike["deviation"] == pytest.approx(1, abs=0.05)
    assert spread(torch.tensor([[1.0, float("nan")], [1.0, 2.0]])) == {}
    assert spread(torch.zeros(4, 3)) == {"deviation": 0.0, "effective_rank": 1.0}


def test_only_the_first_view_of_a_training_step_is_kept() -> None:
    backbone = nn.Linear(3, 5)
    kept = Embeddings(backbone, 4)
    assert kept.spread(CPU) == {}
    views = torch.randn(8, 3)
    features = backbone(views)
    assert kept.spread(CPU) == spread(features[:4].detach())
    backbone.eval()
    backbone(torch.ones(8, 3))
    assert kept.spread(CPU) == spread(features[:4].detach())

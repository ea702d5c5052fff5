"""helpers.ranks"""

from typing import Any

import torch
from torch import Tensor, nn

from helpers.tiny_networks import SHAPE, tiny_batch, tiny_settings
from satmip_train.objectives import build_objective
from satmip_train.objectives.base import Objective

SAMPLES = 8
RESNET = {"backbone": "test_resnet", "backbone_args": {}, "view_size": 16}

Result = dict[str, dict[str, Tensor]]


def build(variant: dict[str, Any]) -> Objective:
    torch.manual_seed(0)
    return build_objective(tiny_settings(**variant), SHAPE)


def take(batch: dict[str, Any], rows: slice) -> dict[str, Any]:
    return {key: tuple(v[rows] for v in value) if key == "views" else value[rows] for key, value in batch.items()}


def result(objective: nn.Module, parts: dict[str, Tensor]) -> Result:
    return {
        "parts": {name: part.detach().clone() for name, part in parts.items()},
        "gradients": {n: p.grad.clone() for n, p in objective.named_parameters() if p.grad is not None},
        "buffers": {name: buffer.clone() for name, buffer in objective.named_buffers()},
    }


def on_one(variant: dict[str, Any]) -> Result:
    objective = build(variant)
    parts = objective(tiny_batch(objective, SAMPLES))
    parts["loss"].backward()
    return result(objective, parts)

"""Settings, shapes and batches small enough that a test can train on them."""

from typing import Any

import torch

from satmip_train.config import Settings
from satmip_train.objectives.base import MetadataShape, Objective

START, END = 49406, 49407
SHAPE = MetadataShape(context=12, numeric=3, cardinalities=(4, 5))
SIDE = 16


def tiny_settings(**changes: Any) -> Settings:
    tiny: dict[str, Any] = {
        "backbone": "vit_small_patch16_224",
        "backbone_args": {"img_size": SIDE, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4},
        "view_size": SIDE,
        "text_layers": 2,
        "text_width": 32,
        "text_heads": 4,
        "tabular_layers": 2,
        "tabular_width": 32,
        "tabular_heads": 4,
        "tabular_attention_dropout": 0.0,
        "tabular_ffn_dropout": 0.0,
        "embed_dim": 24,
        "ssl_hidden": 40,
        "ssl_dim": 20,
        "batch_size": 8,
    }
    return Settings.model_validate({**tiny, **changes})


def tiny_tokens(samples: int, generator: torch.Generator) -> torch.Tensor:
    tokens = torch.zeros(samples, SHAPE.context, dtype=torch.int64)
    for i in range(samples):
        words = 3 + i % (SHAPE.context - 4)
        tokens[i, : words + 2] = torch.tensor([START, *torch.randint(1, 400, (words,), generator=generator).tolist(), END])
    return tokens


def tiny_batch(objective: Objective, samples: int = 8, seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "views": tuple(torch.randn(samples, 3, SIDE, SIDE, generator=generator) for _ in range(objective.views)),
        "tokens": tiny_tokens(samples, generator),
        "numeric": torch.randn(samples, SHAPE.numeric, generator=generator),
        "mask": torch.rand(samples, SHAPE.numeric, generator=generator) > 0.3,
        "categorical": torch.stack([torch.randint(0, n, (samples,), generator=generator) for n in SHAPE.cardinalities], dim=1),
    }

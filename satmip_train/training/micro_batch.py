"""Large batches in small memory: the encoders work through a batch in parts, while the loss sees all of its embeddings.

That is the scheme of GradCache (Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup"): embed
part by part and keep no activations; take the loss of all embeddings and its gradient with respect to them; embed each part again
and carry its gradient on to the weights. Here torch's activation checkpointing does it, a part being what is computed again as a
whole; it also replays the random numbers of dropout. Only the encoders are worked through in parts: what follows them is cheap and
sees the whole batch, so the batch norms of the projection head have the statistics of the whole batch.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from satmip_train.objectives.base import Objective


def micro_batched(objective: Objective, rows: int) -> None:
    """Let the image encoders and the metadata encoder of an objective take at most `rows` rows at a time while they are trained.

    Raises:
        ValueError: one of them has batch norms, whose statistics would be those of a part.
    """
    encoders: list[nn.Module] = [
        *objective.image_encoders,
        *([objective.metadata_encoder] if objective.metadata_encoder is not None else []),
    ]
    for encoder in encoders:
        if any(isinstance(part, _BatchNorm) for part in encoder.modules()):
            raise ValueError(
                "--micro-batch would change what is learned: the batch norms of this backbone would see a part of the batch at a "
                "time. Use --grad-checkpointing instead, or a --backbone without batch norms (a ViT)."
            )
        encoder.forward = _in_parts(encoder, encoder.forward, rows)


def _in_parts(encoder: nn.Module, forward: Callable[[Any], Tensor], rows: int) -> Callable[[Any], Tensor]:
    def encode(batch: Any) -> Tensor:
        if not encoder.training:
            return forward(batch)
        # Without gradients, as MoCo embeds its keys, checkpointing only calls.
        parts = [checkpoint(forward, part, use_reentrant=False) for part in _parts(encoder, batch, rows)]
        return torch.cat(parts)

    return encode


def _parts(encoder: nn.Module, batch: Any, rows: int) -> list[Any]:
    """Split views (B, 3, S, S), or the tensors of a batch that a metadata encoder reads."""
    if isinstance(batch, Tensor):
        return list(torch.split(batch, rows))
    keys = sorted(encoder.batch_keys)  # type: ignore[arg-type]
    split = zip(*(torch.split(batch[key], rows) for key in keys), strict=True)
    return [dict(zip(keys, part, strict=True)) for part in split]

"""The contrastive losses of the paper (section 3) as pure functions of embeddings.

All of them compute in float32 whatever the dtype of the embeddings, also under autocast: at scale 100, bfloat16 logits are
wrong by up to 0.5. Under torch.distributed the anchors are a rank's own rows and the candidates are the rows of all ranks,
so a loss is the mean over the rank's own rows.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from satmip_train.distributed import gather, rank

Negatives = Literal["both", "cross"]


def contrastive_loss(logits: Tensor, first: int = 0) -> Tensor:
    """Return the mean of eq. 1 over the anchors, given the logits s(a_i, b_j) / tau.

    Shape:
        logits: (B, K) float32; column `first + i` is the positive of row i
        returns: ()
    """
    positives = torch.arange(first, first + len(logits), device=logits.device)
    return F.cross_entropy(logits, positives)


def metadata_image_loss(
    image: Tensor, metadata: Tensor, scale: Tensor | float, loss_gather: Literal["exact", "slip"] = "exact"
) -> Tensor:
    """Return L^MI, eq. 2: the symmetrized contrastive loss between images and their metadata. `scale` is 1 / tau.

    NOTE[DIFF] `loss_gather="slip"` gathers without a gradient, as the code of SLIP does, on which the paper builds: each
    embedding learns as an anchor and not as a candidate. The loss is the same; with two ranks or more the gradient of the
    encoders is about half the true one once embeddings are spread out.

    Shape:
        image, metadata: (B, D), need not be normalized
        returns: () float32
    """
    with torch.autocast(image.device.type, enabled=False):
        image, metadata = _unit_rows(image), _unit_rows(metadata)
        images, all_metadata = _gather(image, loss_gather), _gather(metadata, loss_gather)
        first = rank() * len(image)
        from_image = contrastive_loss(scale * image @ all_metadata.T, first)
        from_metadata = contrastive_loss(scale * metadata @ images.T, first)
        return (from_image + from_metadata) / 2


def sigmoid_loss(image: Tensor, metadata: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Return SigLIP's loss in place of eq. 2: for each image and each metadata, whether they belong together.

    It is the sum over the candidates of -log sigmoid(+-(scale s(a_i, b_j) + bias)), plus where j = i, averaged over the anchors.

    Shape:
        image, metadata: (B, D), need not be normalized
        scale, bias: ()
        returns: () float32
    """
    with torch.autocast(image.device.type, enabled=False):
        image, metadata = _unit_rows(image), gather(_unit_rows(metadata))
        logits = scale * image @ metadata.T + bias
        together = torch.eye(*logits.shape, device=logits.device).roll(rank() * len(image), dims=1)
        return F.binary_cross_entropy_with_logits(logits, together, reduction="sum") / len(image)


def view_loss(one: Tensor, two: Tensor, temperature: float, negatives: Negatives = "both") -> Tensor:
    """Return L^Sim, eq. 3: the symmetrized contrastive loss between two views of the same images.

    NOTE[DIFF] `negatives="cross"` is eq. 3 as printed: the negatives of an anchor are the other view's K - 1 other rows.
    `"both"` (our default) also counts the K - 1 other rows of the anchor's own view, as SimCLR and the code of SLIP do.

    Shape:
        one, two: (B, D), need not be normalized
        returns: () float32
    """
    with torch.autocast(one.device.type, enabled=False):
        one, two = _unit_rows(one), _unit_rows(two)
        ones, twos = gather(one), gather(two)
        first = rank() * len(one)
        from_one, from_two = one @ twos.T / temperature, two @ ones.T / temperature
        if negatives == "both":
            itself = torch.eye(len(one), len(ones), dtype=torch.bool, device=one.device).roll(first, dims=1)
            from_one = torch.cat([from_one, (one @ ones.T / temperature).masked_fill(itself, -math.inf)], dim=1)
            from_two = torch.cat([from_two, (two @ twos.T / temperature).masked_fill(itself, -math.inf)], dim=1)
        return (contrastive_loss(from_one, first) + contrastive_loss(from_two, first)) / 2


def chance_level(batch_size: int, negatives: Negatives = "cross") -> float:
    """Return the loss of a model that tells no candidate from another: log K, or log(2K - 1) where both views give negatives."""
    return math.log(2 * batch_size - 1 if negatives == "both" else batch_size)


def sigmoid_chance_level(batch_size: int) -> float:
    """Return the least `sigmoid_loss` of a model that tells no pair from another: log K + (K - 1) log(K / (K - 1)).

    It answers each pair with the share of true ones, 1 / K, so this is K times the entropy of that share.
    """
    others = batch_size - 1
    return math.log(batch_size) + (others * math.log(batch_size / others) if others else 0.0)


def _unit_rows(embeddings: Tensor) -> Tensor:
    return F.normalize(embeddings.float(), dim=1)


def _gather(embeddings: Tensor, loss_gather: Literal["exact", "slip"]) -> Tensor:
    # On one rank SLIP gathers nothing, and its gradient is exact too.
    gathered = gather(embeddings)
    return gathered.detach() if loss_gather == "slip" and gathered is not embeddings else gathered

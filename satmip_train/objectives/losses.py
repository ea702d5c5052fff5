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

from satmip_train.distributed import gather, rank, world_size

Negatives = Literal["both", "cross"]


def contrastive_loss(logits: Tensor, first: int = 0) -> Tensor:
    """Return the mean of eq. 1 over the anchors, given the logits s(a_i, b_j) / tau.

    Shape:
        logits: (B, K) float32; column `first + i` is the positive of row i
        returns: ()
    """
    positives = torch.arange(first, first + len(logits), device=logits.device)
    return F.cross_entropy(logits, positives)


def same_place(places: Tensor) -> Tensor:
    """Return which candidates show the place of an anchor and are not the anchor's own sample: what losses may leave out.

    NOTE[DIFF] The paper counts another acquisition of a place as a negative; `excluded` of the losses is an option.

    Shape:
        places: (B,) int64, a number for each place
        returns: (B, K) bool
    """
    candidates = gather(places)
    return (places[:, None] == candidates) & ~_diagonal(len(places), len(candidates), places.device)


def metadata_image_loss(
    image: Tensor,
    metadata: Tensor,
    scale: Tensor | float,
    loss_gather: Literal["exact", "slip"] = "exact",
    excluded: Tensor | None = None,
) -> Tensor:
    """Return L^MI, eq. 2: the symmetrized contrastive loss between images and their metadata. `scale` is 1 / tau.

    NOTE[DIFF] `loss_gather="slip"` gathers without a gradient, as the code of SLIP does, on which the paper builds: each
    embedding learns as an anchor and not as a candidate. The loss is the same; with two ranks or more the gradient of the
    encoders is about half the true one once embeddings are spread out.

    Shape:
        image, metadata: (B, D), need not be normalized
        excluded: (B, K) bool, candidates that are left out; never an anchor's own
        returns: () float32
    """
    with torch.autocast(image.device.type, enabled=False):
        image, metadata = _unit_rows(image), _unit_rows(metadata)
        images, all_metadata = _gather(image, loss_gather), _gather(metadata, loss_gather)
        first = rank() * len(image)
        from_image = contrastive_loss(_without(scale * image @ all_metadata.T, excluded), first)
        from_metadata = contrastive_loss(_without(scale * metadata @ images.T, excluded), first)
        return (from_image + from_metadata) / 2


def sigmoid_loss(image: Tensor, metadata: Tensor, scale: Tensor, bias: Tensor, excluded: Tensor | None = None) -> Tensor:
    """Return SigLIP's loss in place of eq. 2: for each image and each metadata, whether they belong together.

    It is the sum over the candidates of -log sigmoid(+-(scale s(a_i, b_j) + bias)), plus where j = i, averaged over the anchors.

    Shape:
        image, metadata: (B, D), need not be normalized
        scale, bias: ()
        excluded: (B, K) bool, candidates that are left out; never an anchor's own
        returns: () float32
    """
    with torch.autocast(image.device.type, enabled=False):
        image, metadata = _unit_rows(image), gather(_unit_rows(metadata))
        logits = scale * image @ metadata.T + bias
        together = _diagonal(len(image), len(metadata), logits.device).float()
        counted = None if excluded is None else ~excluded
        return F.binary_cross_entropy_with_logits(logits, together, counted, reduction="sum") / len(image)


def view_loss(
    one: Tensor, two: Tensor, temperature: float, negatives: Negatives = "both", excluded: Tensor | None = None
) -> Tensor:
    """Return L^Sim, eq. 3: the symmetrized contrastive loss between two views of the same images.

    NOTE[DIFF] `negatives="cross"` is eq. 3 as printed: the negatives of an anchor are the other view's K - 1 other rows.
    `"both"` (our default) also counts the K - 1 other rows of the anchor's own view, as SimCLR and the code of SLIP do.

    Shape:
        one, two: (B, D), need not be normalized
        excluded: (B, K) bool, samples that are left out of the negatives; never an anchor's own
        returns: () float32
    """
    with torch.autocast(one.device.type, enabled=False):
        one, two = _unit_rows(one), _unit_rows(two)
        ones, twos = gather(one), gather(two)
        first = rank() * len(one)
        from_one, from_two = (_without(a @ b.T / temperature, excluded) for a, b in ((one, twos), (two, ones)))
        if negatives == "both":
            itself = _diagonal(len(one), len(ones), one.device)
            itself = itself if excluded is None else itself | excluded
            from_one = torch.cat([from_one, _without(one @ ones.T / temperature, itself)], dim=1)
            from_two = torch.cat([from_two, _without(two @ twos.T / temperature, itself)], dim=1)
        return (contrastive_loss(from_one, first) + contrastive_loss(from_two, first)) / 2


def key_loss(queries: Tensor, keys: Tensor, queue: Tensor, temperature: float, excluded: Tensor) -> Tensor:
    """Return the InfoNCE of MoCo (He et al. 2020, eq. 1): a query is told from the queue, its positive is its own key.

    Gradients reach the queries alone, so nothing is gathered: each rank has the whole queue.

    Shape:
        queries, keys: (B, D), need not be normalized
        queue: (K, D), normalized
        excluded: (K,) or (B, K) bool, rows of the queue that are no negatives
        returns: () float32
    """
    with torch.autocast(queries.device.type, enabled=False):
        queries, keys = _unit_rows(queries), _unit_rows(keys.detach())
        positive = (queries * keys).sum(dim=1, keepdim=True)
        logits = torch.cat([positive, _without(queries @ queue.T, excluded)], dim=1) / temperature
        return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=logits.device))


def cluster_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of predicted clusters, the mean over the samples of all ranks that have a label.

    Shape:
        logits: (B, C)
        labels: (B,) int64, -1 where there is none
        returns: () float32
    """
    with torch.autocast(logits.device.type, enabled=False):
        # Ranks may have different numbers of labels, so the mean over the ranks of their own means would be another one.
        labelled = gather((labels >= 0).float()).sum().clamp(min=1)
        return F.cross_entropy(logits.float(), labels, ignore_index=-1, reduction="sum") * (world_size() / labelled)


def chance_level(batch_size: int, negatives: Negatives = "cross") -> float:
    """Return the loss of a model that tells no candidate from another: log K, or log(2K - 1) where both views give negatives."""
    return math.log(2 * batch_size - 1 if negatives == "both" else batch_size)


def sigmoid_chance_level(batch_size: int) -> float:
    """Return the least `sigmoid_loss` of a model that tells no pair from another: log K + (K - 1) log(K / (K - 1)).

    It answers each pair with the share of true ones, 1 / K, so this is K times the entropy of that share.
    """
    others = batch_size - 1
    return math.log(batch_size) + (others * math.log(batch_size / others) if others else 0.0)


def _diagonal(rows: int, candidates: int, device: torch.device) -> Tensor:
    """Return where a candidate is the anchor's own sample: (B, K) bool."""
    return torch.eye(rows, candidates, dtype=torch.bool, device=device).roll(rank() * rows, dims=1)


def _without(logits: Tensor, excluded: Tensor | None) -> Tensor:
    return logits if excluded is None else logits.masked_fill(excluded, -math.inf)


def _unit_rows(embeddings: Tensor) -> Tensor:
    return F.normalize(embeddings.float(), dim=1)


def _gather(embeddings: Tensor, loss_gather: Literal["exact", "slip"]) -> Tensor:
    # On one rank SLIP gathers nothing, and its gradient is exact too.
    gathered = gather(embeddings)
    return gathered.detach() if loss_gather == "slip" and gathered is not embeddings else gathered

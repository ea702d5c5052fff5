"""Signs of collapse: how far the embeddings of a batch spread, and over how many directions."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from satmip_train.distributed import Job, gather

_ROWS = 512
"""Of the global batch, at most."""


class Embeddings:
    """The image embeddings of the last step, kept as they pass, so that looking at them changes nothing that a run computes."""

    def __init__(self, backbone: nn.Module, rows: int) -> None:
        """Begin to keep them.

        Args:
            backbone: its features are kept while it is trained.
            rows: samples of this rank's batch; the backbone may embed several views of them at once, of which the first is kept.
        """
        self._rows = rows
        self._last: Tensor | None = None
        backbone.register_forward_hook(self._keep)

    def spread(self, job: Job) -> dict[str, float]:
        """Return what `spread` says of the last step, over all ranks alike; nothing where there was none."""
        if self._last is None:
            return {}
        return spread(gather(self._last[: max(_ROWS // job.ranks, 1)].float()))

    def _keep(self, backbone: nn.Module, inputs: object, features: Tensor) -> None:
        if backbone.training:
            self._last = features.detach()[: self._rows]


def spread(embeddings: Tensor) -> dict[str, float]:
    """Return how far embeddings spread, and over how many directions.

    "deviation": standard deviation of the entries of normalized embeddings, times the root of their number: 0 where all point one
    way, 1 where they point in all directions alike (Chen & He 2021, section 4.1).
    "effective_rank": exponential of the entropy of the singular values of the embeddings (Roy & Vetterli 2007; RankMe of Garrido et
    al. 2023): 1 where all lie on a line through the origin, at most the smaller side of the matrix.
    Nothing where an embedding is not finite.

    Shape: (N, D).
    """
    with torch.no_grad():
        rows = embeddings.double()
        if not rows.isfinite().all():
            return {}
        gram = rows @ rows.mT if len(rows) < rows.shape[1] else rows.mT @ rows
        values = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
        shares = values / values.sum()
        rank = torch.special.entr(shares.nan_to_num()).sum().exp()
        deviation = F.normalize(rows, dim=1).std(0, unbiased=False).mean() * rows.shape[1] ** 0.5
        found: list[float] = torch.stack([deviation, rank]).tolist()
    return dict(zip(("deviation", "effective_rank"), found, strict=True))

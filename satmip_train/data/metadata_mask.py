"""Hide known metadata fields at random, so that a metadata encoder does not lean on one of them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Hidden = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class MetadataMask:
    """Which fields are hidden, and what that means for tabular features; `captions.CaptionReader` writes captions without them.

    NOTE[DIFF] The paper does not augment metadata (section 4.2), so this is off by default.
    """

    share: float
    """Chance of a field to be hidden."""
    fields: tuple[str, ...]
    """Fields that are read."""
    numeric: tuple[str, ...] = ()
    """The field of each numeric column that is read."""
    categorical: tuple[str, ...] = ()
    """The field of each categorical column that is read."""

    def hidden(self, draws: npt.NDArray[np.float64]) -> Hidden:
        """Return which fields of which samples are hidden. Shape: (B, fields), uniform in [0, 1) -> (B, fields)."""
        return draws < self.share

    def hide(self, batch: dict[str, Any], hidden: Hidden) -> dict[str, Any]:
        """Return a batch in which the columns of hidden fields are missing: mask false, code 0. Other keys stay."""
        changed = dict(batch)
        if "mask" in batch:
            changed["mask"] = batch["mask"] & ~self._columns(hidden, self.numeric)
        if "categorical" in batch:
            changed["categorical"] = batch["categorical"].masked_fill(self._columns(hidden, self.categorical), 0)
        return changed

    def _columns(self, hidden: Hidden, names: tuple[str, ...]) -> torch.Tensor:
        return torch.from_numpy(hidden[:, [self.fields.index(name) for name in names]])

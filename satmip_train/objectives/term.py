"""One term of what is learned: its networks beside the encoders, its loss and its chance level."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from torch import Tensor, nn

from satmip_train.config import Settings
from satmip_train.data.places import Places
from satmip_train.distributed import world_size
from satmip_train.models.backbones import feature_dim
from satmip_train.models.metadata_encoders import CaptionEncoder, TabularEncoder
from satmip_train.objectives.base import Objective


@dataclass(frozen=True)
class Encoders:
    """The networks that the terms of an objective share, before anything compiles them or changes how they work."""

    backbone: nn.Module
    metadata: CaptionEncoder | TabularEncoder | None
    """None where no term learns from metadata."""
    projection: int | None = None
    """Width of the first of `Inputs.projections`, which an earlier term leaves there; None where there is none."""

    @property
    def width(self) -> int:
        """Width of the backbone's features."""
        return feature_dim(self.backbone)


@dataclass
class Inputs:
    """Intermediate results that the terms share in one step. Features are computed in one pass, on first use."""

    objective: Objective
    batch: Mapping[str, Any]
    """See `Objective.forward`."""
    first: int
    """The first of the two views that are compared; it is also that of the metadata, unless these have a view of their own."""
    encoded: tuple[int, ...]
    """The views that the backbone embeds."""
    projections: list[Tensor] = field(default_factory=list)
    """Those of the first view, not normalized, (B, D) each; a term that has one leaves it to those that follow."""
    logged: dict[str, Tensor] = field(default_factory=dict)
    """Values that terms log besides their losses, each () and without a gradient."""

    @cached_property
    def _features(self) -> dict[int, Tensor]:
        features = self.objective.encode([self.batch["views"][number] for number in self.encoded])
        return dict(zip(self.encoded, features, strict=True))

    @property
    def image(self) -> Tensor:
        """Features of the view that goes with the metadata, (B, width)."""
        return self._features[0]

    @property
    def one(self) -> Tensor:
        """Features of the first view of the two, or of the only one, (B, width)."""
        return self._features[self.first]

    @property
    def two(self) -> Tensor:
        """Features of the second view, (B, width)."""
        return self._features[self.first + 1]

    @property
    def second_view(self) -> Tensor:
        """The second view itself, (B, 3, S, S)."""
        view: Tensor = self.batch["views"][self.first + 1]
        return view

    @cached_property
    def metadata(self) -> Tensor:
        """Features of the metadata, (B, width of their encoder)."""
        assert self.objective.metadata_encoder is not None
        features: Tensor = self.objective.metadata_encoder(self.batch)
        return features

    @cached_property
    def excluded(self) -> Tensor | None:
        """Which samples of the global batch are no negatives, (B, K) bool; None where all others are."""
        mask = self.objective.excluded(self.batch)
        if mask is not None:
            self.leave_out(mask)
        return mask

    def leave_out(self, mask: Tensor) -> None:
        """Count the pairs that a loss leaves out, of the global batch, for the log. Shape: (B, K) bool, of this rank's rows."""
        self.logged["masked_pairs"] = self.logged.get("masked_pairs", 0) + mask.sum().float() * world_size()


class Term(nn.Module, ABC):
    """One summand of an objective. One of your own is a class in a file and a line that puts it into `objectives.TERMS`."""

    part: ClassVar[str]
    """Name of its loss in the log, such as "loss_views"."""
    views: ClassVar[int] = 1
    """Views of an image that it needs: 1, or 2 that are compared."""
    encoded: ClassVar[int] = 1
    """How many of them, from the first on, the backbone embeds."""
    learns_from_metadata: ClassVar[bool] = False
    """Whether it reads `Inputs.metadata`; the metadata belong to the image of the first view of all."""
    reads: ClassVar[frozenset[str]] = frozenset()
    """The settings that it reads, of those that not every objective reads."""
    weight: ClassVar[str | None] = None
    """The setting that weighs it in a sum; None: it weighs 1."""
    weights_as: ClassVar[str | None] = None
    """Name of its networks in checkpoints; None: that of the term."""
    batch_keys: frozenset[str] = frozenset()
    """Keys of the batch that it needs besides views and metadata, see `Objective.batch_keys`."""
    projection: int | None = None
    """Width of the projection that it leaves in `Inputs.projections`."""

    def __init__(self, settings: Settings, encoders: Encoders) -> None:
        """Make its networks; `encoders` are there to be measured or copied, not to be kept."""
        super().__init__()
        self.settings = settings

    @abstractmethod
    def forward(self, inputs: Inputs) -> Tensor:
        """Return the loss, () float32, with its gradient."""

    @abstractmethod
    def chance(self) -> float:
        """Return the loss as a model has it that tells no sample of a global batch from another."""

    @property
    def image_encoders(self) -> tuple[nn.Module, ...]:
        """The networks of its own that take views."""
        return ()

    def fit(self, places: Callable[[], Places]) -> None:
        """See `Objective.fit`."""

    def after_step(self, backbone: nn.Module) -> None:
        """Bring its parameters back into their bounds, or after those of the backbone; called after each step of the optimizer."""

"""The objective that is a weighted sum of terms, such as SatMIPS: eq. 4 of the paper."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from satmip_train.config import Settings
from satmip_train.data.places import Places
from satmip_train.models.metadata_encoders import MetadataShape, create_metadata_encoder
from satmip_train.models.pretrained import start_backbone
from satmip_train.objectives.base import Objective
from satmip_train.objectives.term import Encoders, Inputs, Term


class SumOfTerms(Objective):
    """Terms that learn one backbone together.

    Coupled, the first of two views serves every term (the paper's SatMIPS). Decoupled, the metadata have a view of their own, the
    first of three, as in SLIP. With `temporal` the second of the two views that are compared shows another acquisition of the
    place, whatever its time, or the image itself where there is none (Ayush et al. 2021; table 2). Two acquisitions of one place
    that are both anchors of a batch are negatives of each other, as there, unless `mask_same_place` is set.

    NOTE[DIFF] The paper gives no detail of Geo and TP "on top of SimCLR". As in Ayush et al. the first view is classified, and all
    losses weigh 1 unless set otherwise.
    """

    def __init__(self, settings: Settings, shape: MetadataShape, kinds: Mapping[str, type[Term]], temporal: bool) -> None:
        """Make the networks: the encoders, then those of each term in the given order."""
        super().__init__(settings)
        self.backbone, self.start = start_backbone(settings)
        from_metadata = any(kind.learns_from_metadata for kind in kinds.values())
        if from_metadata:
            self.metadata_encoder = create_metadata_encoder(settings, shape)
            self.batch_keys |= self.metadata_encoder.batch_keys
        encoders = Encoders(self.backbone, self.metadata_encoder)
        self.terms: dict[str, Term] = {}
        for name, kind in kinds.items():
            term = self.terms[name] = kind(settings, encoders)
            self.add_module(kind.weights_as or name, term)
            self.batch_keys |= term.batch_keys
            encoders = replace(encoders, projection=encoders.projection or term.projection)
        compares = any(kind.views == 2 for kind in kinds.values())
        self._first = int(from_metadata and compares and not settings.coupled)
        self.view_sources = ("image",) * (self._first + compares) + ("partner" if temporal else "image",)
        self._encoded = tuple(sorted({number for kind in kinds.values() for number in self._views_of(kind)}))
        self._parts = _part_names(kinds)

    def _views_of(self, kind: type[Term]) -> range:
        """Return the views of a kind of term that the backbone embeds."""
        first = 0 if kind.learns_from_metadata else self._first
        return range(first, first + kind.encoded)

    @property
    def image_encoders(self) -> tuple[nn.Module, ...]:
        """See `Objective.image_encoders`."""
        return self.backbone, *(encoder for term in self.terms.values() for encoder in term.image_encoders)

    def fit(self, places: Callable[[], Places]) -> None:
        """See `Objective.fit`."""
        for term in self.terms.values():
            term.fit(places)

    def forward(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return "loss", each term's own loss without its weight, and what the terms log beside."""
        self.check_views(batch["views"])
        inputs = Inputs(self, batch, self._first, self._encoded)
        losses: dict[str, Tensor] = {name: term(inputs) for name, term in self.terms.items()}
        parts = {self._parts[name]: loss.detach() for name, loss in losses.items()}
        return {"loss": sum(self._weight(name) * loss for name, loss in losses.items()), **parts, **inputs.logged}  # type: ignore[dict-item]

    def chance(self) -> dict[str, float]:
        """See `Objective.chance`."""
        levels = {name: term.chance() for name, term in self.terms.items()}
        total = sum(self._weight(name) * level for name, level in levels.items())
        return {"loss": total, **{self._parts[name]: level for name, level in levels.items()}}

    def after_step(self) -> None:
        """See `Objective.after_step`."""
        for term in self.terms.values():
            term.after_step(self.backbone)

    def _weight(self, name: str) -> float:
        setting = self.terms[name].weight
        return 1.0 if setting is None or len(self.terms) == 1 else float(getattr(self.settings, setting))


def _part_names(kinds: Mapping[str, type[Term]]) -> dict[str, str]:
    """Return what the loss of each term is called in the log: as the term says, or by its name where another is called so."""
    names: dict[str, str] = {}
    for name, kind in kinds.items():
        names[name] = kind.part if kind.part not in names.values() else f"loss_{name}"
    return names

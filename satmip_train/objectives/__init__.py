"""Terms and objectives, by the names that settings give them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from satmip_data.names import did_you_mean
from satmip_train.config import Settings
from satmip_train.objective_names import NAMES, TEMPORAL, terms_of
from satmip_train.objectives.base import MetadataShape, Objective
from satmip_train.objectives.geo import Geo
from satmip_train.objectives.metadata_image import MetadataImage
from satmip_train.objectives.moco import MoCo
from satmip_train.objectives.simclr import SimCLR
from satmip_train.objectives.sum import SumOfTerms
from satmip_train.objectives.term import Term

TERMS: dict[str, type[Term]] = {"satmip": MetadataImage, "simclr": SimCLR, "moco": MoCo, "geo": Geo}
"""What objectives are sums of. A term of your own is one more entry."""


@dataclass(frozen=True)
class NamedSum:
    """Builds the objective that is the sum of the terms in its name."""

    name: str

    def __call__(self, settings: Settings, shape: MetadataShape) -> SumOfTerms:
        """Return it with fresh weights. Raises ValueError where `kinds` does."""
        return SumOfTerms(settings, shape, self.kinds(), terms_of(self.name).temporal)

    def kinds(self) -> dict[str, type[Term]]:
        """Return its terms in the order in which they are built.

        Raises:
            ValueError: a term is unknown, empty or there twice, or nothing compares the second view that tp changes.
        """
        names = terms_of(self.name)
        if unknown := next((name for name in names.terms if name not in TERMS), None):
            where = "" if unknown == self.name else f' in "{self.name}"'
            raise ValueError(f'Unknown objective "{unknown}"{where}.{_nearest(unknown, [*TERMS, TEMPORAL, *OBJECTIVES])}')
        kinds = {name: TERMS[name] for name in names.terms}
        if names.temporal and not any(kind.views == 2 for kind in kinds.values()):
            raise ValueError(f'Nothing in the objective "{self.name}" compares two views, which tp needs. Add simclr or moco.')
        return kinds

    @property
    def reads(self) -> frozenset[str] | None:
        """See `Objective.reads`; None where there is no such objective."""
        try:
            kinds = self.kinds().values()
        except ValueError:
            return None
        read = frozenset[str]().union(*(kind.reads for kind in kinds))
        if len(kinds) > 1:
            read |= {kind.weight for kind in kinds if kind.weight is not None}
        alone = not any(kind.learns_from_metadata for kind in kinds) or all(kind.views == 1 for kind in kinds)
        return read if alone else read | {"coupled"}


OBJECTIVES: dict[str, Callable[[Settings, MetadataShape], Objective]] = {name: NamedSum(name) for name in NAMES}
"""Objectives that are no sum of terms are added here; sums need not be."""


def build_objective(settings: Settings, shape: MetadataShape) -> Objective:
    """Return the objective that the settings name, with fresh weights.

    Raises:
        ValueError: there is none of that name, or it cannot be built.
    """
    return _builder(settings.objective)(settings, shape)


def check_objective(name: str) -> None:
    """Raise ValueError where there is no objective of that name."""
    builder = _builder(name)
    if isinstance(builder, NamedSum):
        builder.kinds()


def _builder(name: str) -> Callable[[Settings, MetadataShape], Objective]:
    return OBJECTIVES.get(name) or NamedSum(name)


def _nearest(word: str, known: Iterable[str]) -> str:
    return f"{did_you_mean(word, known)} Terms are {', '.join([*TERMS, TEMPORAL])}; write sums with +, as satmip+simclr+tp."


def read_by(objective: str) -> frozenset[str] | None:
    """Return the settings that an objective says it reads, see `Objective.reads`; None where it does not say."""
    return getattr(_builder(objective), "reads", None)


def applies(name: str, settings: Settings) -> bool:
    """Return whether a setting has a bearing on a run: not where another objective, or another metadata encoder, would read it."""
    own = read_by(settings.objective)
    if own is not None and name not in own and any(name in (read_by(other) or ()) for other in OBJECTIVES):
        return False
    if name in ("text_model", "text_tune"):
        return settings.metadata_encoder == "pretrained"
    return not name.startswith(("text_", "tabular_")) or name.startswith(f"{settings.metadata_encoder}_")

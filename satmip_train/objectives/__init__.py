"""The objectives, by the name that settings give them."""

from collections.abc import Callable

from satmip_train.config import Settings
from satmip_train.objectives.base import MetadataShape, Objective
from satmip_train.objectives.moco import MoCo
from satmip_train.objectives.moco_geo import MoCoGeo
from satmip_train.objectives.moco_geo_tp import MoCoGeoTP
from satmip_train.objectives.moco_tp import MoCoTP
from satmip_train.objectives.satmip import SatMIP
from satmip_train.objectives.satmips import SatMIPS
from satmip_train.objectives.simclr import SimCLR
from satmip_train.objectives.simclr_geo import SimCLRGeo
from satmip_train.objectives.simclr_geo_tp import SimCLRGeoTP
from satmip_train.objectives.simclr_tp import SimCLRTP

OBJECTIVES: dict[str, Callable[[Settings, MetadataShape], Objective]] = {
    "simclr": SimCLR,
    "simclr-geo": SimCLRGeo,
    "simclr-tp": SimCLRTP,
    "simclr-geo-tp": SimCLRGeoTP,
    "moco": MoCo,
    "moco-geo": MoCoGeo,
    "moco-tp": MoCoTP,
    "moco-geo-tp": MoCoGeoTP,
    "satmip": SatMIP,
    "satmips": SatMIPS,
}


def build_objective(settings: Settings, shape: MetadataShape) -> Objective:
    """Return the objective that the settings name, with fresh weights.

    Raises:
        ValueError: there is none of that name.
    """
    if settings.objective not in OBJECTIVES:
        raise ValueError(f"objective must be one of {sorted(OBJECTIVES)}, however: {settings.objective!r}")
    return OBJECTIVES[settings.objective](settings, shape)


def read_by(objective: str) -> frozenset[str] | None:
    """Return the settings that an objective says it reads, see `Objective.reads`; None where it does not say."""
    return getattr(OBJECTIVES.get(objective), "reads", None)


def applies(name: str, settings: Settings) -> bool:
    """Return whether a setting has a bearing on a run: not where another objective, or another metadata encoder, would read it."""
    own = read_by(settings.objective)
    if own is not None and name not in own and any(name in (read_by(other) or ()) for other in OBJECTIVES):
        return False
    if name in ("text_model", "text_tune"):
        return settings.metadata_encoder == "pretrained"
    return not name.startswith(("text_", "tabular_")) or name.startswith(f"{settings.metadata_encoder}_")

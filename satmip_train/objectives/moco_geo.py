"""MoCo-v2+Geo: MoCo-v2 that also predicts where an image lies (Ayush et al. 2021)."""

from satmip_train.objectives.moco import MoCo
from satmip_train.objectives.simclr_geo import GEO, SimCLRGeo


class MoCoGeo(SimCLRGeo, MoCo):
    """What `SimCLRGeo` adds, added to `MoCo`: the query is classified."""

    reads = MoCo.reads | GEO

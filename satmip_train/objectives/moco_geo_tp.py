"""MoCo-v2+Geo+TP: MoCo-v2+Geo with the temporal positives of MoCo-v2+TP (Ayush et al. 2021)."""

from satmip_train.objectives.moco import MoCo
from satmip_train.objectives.moco_geo import MoCoGeo
from satmip_train.objectives.simclr_geo_tp import SimCLRGeoTP


class MoCoGeoTP(SimCLRGeoTP, MoCo):
    """What `SimCLRGeoTP` adds, added to `MoCo`: the key shows another acquisition, the query is classified."""

    reads = MoCoGeo.reads

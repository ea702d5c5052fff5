"""MoCo-v2+TP: MoCo-v2 whose key is a view of another acquisition of the same place (Ayush et al. 2021)."""

from satmip_train.objectives.moco import MoCo
from satmip_train.objectives.simclr_tp import SimCLRTP


class MoCoTP(SimCLRTP, MoCo):
    """What `SimCLRTP` changes, changed in `MoCo`: the key shows any other image of the place, or the image itself."""

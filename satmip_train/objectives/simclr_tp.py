"""SimCLR-TP: SimCLR whose positive is a view of another acquisition of the same place (Ayush et al. 2021; table 2)."""

from satmip_train.objectives.simclr import SimCLR


class SimCLRTP(SimCLR):
    """SimCLR with temporal positives: any other image of the place whatever its time, the image itself where there is none.

    Two acquisitions of one place that are both anchors of a batch are negatives of each other, as in Ayush et al., unless
    `mask_same_place` is set.
    """

    view_sources = ("image", "partner")

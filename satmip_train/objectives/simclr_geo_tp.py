"""SimCLR-Geo-TP: SimCLR-Geo with the temporal positives of SimCLR-TP (Ayush et al. 2021; table 2)."""

from satmip_train.objectives.simclr_geo import SimCLRGeo


class SimCLRGeoTP(SimCLRGeo):
    """SimCLR-Geo whose second view is made of another acquisition of the place; the first view is classified."""

    view_sources = ("image", "partner")

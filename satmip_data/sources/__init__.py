"""The sources: each turns one kind of raw archive into scenes, and vendor oddities end there."""

from satmip_data.sources.base import Found, Item, Source
from satmip_data.sources.evaluation import EuroSat, Fgsc23, Optimal31, Resisc45, UcMerced
from satmip_data.sources.fmow import Fmow
from satmip_data.sources.geotiff import GeoTiff
from satmip_data.sources.imagefolder import ImageFolder
from satmip_data.sources.xbd import Xbd

_ALL: tuple[type[Source], ...] = (Fmow, Xbd, GeoTiff, ImageFolder, EuroSat, Resisc45, Optimal31, UcMerced, Fgsc23)

SOURCES: dict[str, type[Source]] = {source.name: source for source in _ALL}
"""Every source by the word that chooses it."""

__all__ = ["SOURCES", "Found", "Item", "Source"]

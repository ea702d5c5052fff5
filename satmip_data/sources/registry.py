"""All sources by name. Whoever works for one of them alone imports its own module instead: others bring pandas or rasterio."""

from satmip_data.sources.base import Source
from satmip_data.sources.bigearthnet import BigEarthNet
from satmip_data.sources.evaluation_sets import EuroSat, Fgsc23, Optimal31, Resisc45, UcMerced
from satmip_data.sources.fmow.source import Fmow
from satmip_data.sources.geotiff import GeoTiff
from satmip_data.sources.imagefolder import ImageFolder
from satmip_data.sources.so2sat import So2Sat
from satmip_data.sources.stac import Stac
from satmip_data.sources.table import Table
from satmip_data.sources.xbd import Xbd

_ALL: tuple[type[Source], ...] = (
    Fmow, Xbd, Table, GeoTiff, Stac, ImageFolder, EuroSat, Resisc45, Optimal31, UcMerced, Fgsc23, So2Sat, BigEarthNet,
)  # fmt: skip

SOURCES: dict[str, type[Source]] = {source.name: source for source in _ALL}
"""Every source by the word that chooses it."""

"""The sources: each turns one kind of raw archive into scenes, and vendor oddities end there."""

from satmip_data.sources.base import Found, Item, Source
from satmip_data.sources.fmow import Fmow
from satmip_data.sources.xbd import Xbd

SOURCES: dict[str, type[Source]] = {"fmow": Fmow, "xbd": Xbd}
"""Every source by the word that chooses it."""

__all__ = ["SOURCES", "Found", "Item", "Source"]

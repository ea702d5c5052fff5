"""fMoW, in all its published forms."""

from satmip_data.sources.fmow.source import Fmow

__all__ = ["Fmow"]

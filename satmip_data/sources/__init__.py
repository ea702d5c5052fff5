"""The sources: each turns one kind of raw archive into scenes, and vendor oddities end there."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from satmip_data.sources.registry import SOURCES

__all__ = ["SOURCES"]


def __getattr__(name: str) -> Any:
    """Import all sources at the first look at `SOURCES`: a worker, which unpickles one, never does."""
    if name == "SOURCES":
        from satmip_data.sources.registry import SOURCES

        return SOURCES
    raise AttributeError(name)

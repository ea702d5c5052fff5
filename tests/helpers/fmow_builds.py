"""Builds of the small fMoW tree, in small shards of small chips."""

from pathlib import Path

from satmip_data.pipeline.request import BuildRequest
from satmip_data.pipeline.settings import BuildSettings
from satmip_data.sources import SOURCES

SETTINGS = BuildSettings(samples_per_shard=5, size=32)


def request(
    root: Path, out: Path, settings: BuildSettings = SETTINGS, workers: int = 1, max_rejects: int | None = None
) -> BuildRequest:
    """Return what builds the tree at `root` into `out`."""
    return BuildRequest(SOURCES["fmow"](), str(root), str(out), settings, workers, max_rejects=max_rejects)

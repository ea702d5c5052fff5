"""A build as it was asked for."""

from dataclasses import dataclass

from satmip_data.execution.engines import Engine, Local, Ray
from satmip_data.pipeline.selection import EVERYTHING, Selection
from satmip_data.pipeline.settings import BuildSettings
from satmip_data.sources.base import Source
from satmip_data.storage.limits import DEFAULT, Limits


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """A build: its source, its destination and its workers."""

    source: Source
    root: str
    out: str
    settings: BuildSettings
    workers: int = 1
    limit: int | None = None
    max_rejects: int | None = None
    """Fail when more scenes or AOIs than this give no sample; None never fails."""
    selection: Selection = EVERYTHING
    retry_rejects: bool = False
    """Read again the images that gave no chip, in a build that is finished or not."""
    ray: str | None = None
    """Address of the Ray cluster that does the work, "local" for one on this machine; None for processes of this machine."""
    limits: Limits = DEFAULT
    """Limits for one file; a file that exceeds them is a reject."""
    decoder: str = "auto"
    """One of `decoders.DECODERS`. All give the same pixels, so a build may be finished by another than it was begun with."""

    @property
    def engine(self) -> Engine:
        """Engine that does the work."""
        return Local(self.workers) if self.ray is None else Ray(self.ray, self.workers)

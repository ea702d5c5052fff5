"""Raw satellite imagery and its metadata, to WebDataset shards. Needs no torch.

    shards = satmip_data.build("fmow/", "out/shards")
    sample = satmip_data.open_shards("out/shards")["train"][0]

Importing it takes no time: what needs pandas or rasterio is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from satmip_data.api import build
    from satmip_data.errors import BuildError, DataError, ShardError
    from satmip_data.records import Metadata
    from satmip_data.shards.reading import Shards, ShardSample, Split, open_shards

__version__ = "0.2.0"
__all__ = [
    "BuildError", "DataError", "Metadata", "ShardError", "ShardSample", "Shards", "Split", "__version__", "build", "open_shards",
]  # fmt: skip
_HOMES = {
    "build": "api", "BuildError": "errors", "DataError": "errors", "ShardError": "errors", "Metadata": "records",
    **dict.fromkeys(("Shards", "ShardSample", "Split", "open_shards"), "shards.reading"),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'satmip_data' has no attribute {name!r}")
    return getattr(import_module(f"satmip_data.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

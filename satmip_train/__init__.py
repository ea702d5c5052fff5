"""WebDataset shards, to image backbones, their features and their measures.

    encoder = satmip_train.load("out/runs/satmips-seed0")
    vectors = encoder.embed(["image.jpg"])

Importing it takes no time: what needs torch is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from satmip_train.data.webdataset_pipeline import as_webdataset
    from satmip_train.encoder import Encoder, load
    from satmip_train.errors import UsageError

__version__ = "0.2.0"
__all__ = ["Encoder", "UsageError", "__version__", "as_webdataset", "load"]
_HOMES = {"Encoder": "encoder", "as_webdataset": "data.webdataset_pipeline", "load": "encoder", "UsageError": "errors"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'satmip_train' has no attribute {name!r}")
    try:
        return getattr(import_module(f"satmip_train.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("satmip_"):
            raise
        advice = (
            f"satmip_train.{name} needs the package {error.name}. Run: pip install -e '.[train]' in the folder of satmip's source"
        )
        raise ModuleNotFoundError(advice, name=error.name) from error


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

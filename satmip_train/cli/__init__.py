"""The command lines `satmip-train` and `satmip-eval`."""

from satmip_train.cli.train import main

__all__ = ["main"]

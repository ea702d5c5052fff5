"""The command line of `satmip-data`."""

from satmip_data.cli.commands import main

__all__ = ["main"]

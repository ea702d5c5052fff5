"""WebDataset shards, to image backbones, their features and their measures. Imports nothing of `satmip_data`."""

__version__ = "0.1.0"

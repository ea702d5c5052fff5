"""Raw satellite imagery and its metadata, to WebDataset shards. Needs no torch."""

__version__ = "0.1.0"

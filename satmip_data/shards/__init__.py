"""Shard directories: tars, `dataset.json`, tables, cards."""

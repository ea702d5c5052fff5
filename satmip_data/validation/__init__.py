"""Validation of shard directories."""

"""Attacks on inputs, shards and runs; `python -m attacks --help`."""

"""Builds: scan, index, plan, pack, seal."""

"""Folders of training runs: checkpoints, logs, exports, cards, pages."""

"""Choices of an evaluation. Needs no torch, so that the command line knows them at once."""

from typing import Literal

Precision = Literal["fp32", "bf16", "fp16"]
"""Of the networks' arithmetic."""
Modality = Literal["image", "metadata", "both"]
"""Whose features are measured."""
Larger = Literal["resize", "keep"]
"""Treatment of images that are larger than a view."""

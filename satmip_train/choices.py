"""What an evaluation may be asked for. Needs no torch, so that the command line knows it at once."""

from typing import Literal

Precision = Literal["fp32", "bf16", "fp16"]
"""Of the networks' arithmetic."""
Modality = Literal["image", "metadata", "both"]
"""Whose features are measured."""
Larger = Literal["resize", "keep"]
"""What becomes of images that are larger than a view."""

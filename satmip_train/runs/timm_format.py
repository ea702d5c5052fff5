"""A run's backbone in timm's own form: a folder that `timm.create_model("local-dir:RUN/timm", pretrained=True)` loads."""

from collections.abc import Sequence
from typing import Any

FOLDER = "timm"
WEIGHTS, CONFIG = "model.safetensors", "config.json"
"""The names by which timm finds them in a folder and in a repository of the Hugging Face hub."""
_OF_THE_NETWORK = ("first_conv", "classifier", "fixed_input_size", "pool_size")


def timm_config(
    backbone: Any, features: int, arguments: dict[str, Any], side: int, mean: Sequence[float], std: Sequence[float]
) -> dict[str, Any]:
    """Return the `config.json` by which timm makes the network and the transform that brings images to it.

    Its transform resizes whole images to the view by the filter of `features.resize`, antialiased and bilinear: float tensors
    without rounding, so that features are equal to 1e-5, and Pillow images with rounding to 8 bits after rows and after columns,
    by which features differ by some tenths of a percent. Images of the view's size are left as they are.

    Args:
        backbone: the network, made by timm
        features: width of its features
        arguments: of `timm.create_model`, beside the name of the architecture: number of heads, pooling, size
        side: of the views, pixels
        mean: of each channel of the train chips, in 0..1
        std: of each channel, in 0..1
    """
    known = backbone.pretrained_cfg
    return {
        "architecture": known["architecture"],
        "num_classes": 0,
        "num_features": features,
        "model_args": arguments,
        "pretrained_cfg": {
            **{name: known[name] for name in _OF_THE_NETWORK if known.get(name) is not None},
            "custom_load": False,
            "input_size": [3, side, side],
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "mean": list(mean),
            "std": list(std),
            "num_classes": 0,
        },
    }

"""Networks: backbones, heads, metadata encoders."""

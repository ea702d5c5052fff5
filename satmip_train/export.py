"""The door that the model cards of earlier exports name."""

from satmip_train.runs.export import load_backbone, load_metadata_encoder

__all__ = ["load_backbone", "load_metadata_encoder"]

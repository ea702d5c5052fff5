"""Evaluation of trained networks by the paper's protocols."""

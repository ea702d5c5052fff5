"""Pixels: from encoded images and windows to chips."""

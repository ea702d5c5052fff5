"""Metadata: the table of fields, captions, tabular features, physical checks."""

"""Readers of the headers of model files."""

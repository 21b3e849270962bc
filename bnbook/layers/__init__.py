"""Normalisation layers, and layers that hold several networks at once."""

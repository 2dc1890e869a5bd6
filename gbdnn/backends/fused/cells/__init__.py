"""Layers over time in compiled code: all time steps in one call, forwards and backwards."""

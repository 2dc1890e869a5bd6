"""Weights of 8 or 4 bits, and the levels that activations are rounded to."""

from gbdnn.weights.integers.forms import Int4, Int8, Integers
from gbdnn.weights.integers.levels import Levels

__all__ = ["Int4", "Int8", "Integers", "Levels"]

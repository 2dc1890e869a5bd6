"""Products of whole numbers, compiled."""

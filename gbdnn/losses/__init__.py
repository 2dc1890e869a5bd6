"""Losses of sequences: `transducer_loss`. The losses of single samples: `gbdnn.layers.LOSSES`."""

from gbdnn.losses.transducer import transducer_loss

__all__ = ["transducer_loss"]

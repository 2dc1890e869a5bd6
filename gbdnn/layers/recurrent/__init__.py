"""Layers over time: a tile is a time step, and each file begins with its equations."""

from __future__ import annotations

from gbdnn.layers.recurrent.bidirectional import BGRU, BLSTM
from gbdnn.layers.recurrent.embedding import Embedding
from gbdnn.layers.recurrent.gru import GRU
from gbdnn.layers.recurrent.heads import HEADS, FinalStates, LastStep, MeanOverTime
from gbdnn.layers.recurrent.lstm import LSTM
from gbdnn.layers.recurrent.reduction import TimeReduction
from gbdnn.layers.recurrent.reset_before import ResetBeforeGRU

__all__ = [
    "BGRU", "BLSTM", "GRU", "HEADS", "LSTM", "Embedding", "FinalStates", "LastStep",
    "MeanOverTime", "ResetBeforeGRU", "TimeReduction",
]  # fmt: skip

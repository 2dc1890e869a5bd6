"""Layers over time: a tile is a time step, and each file begins with its equations."""

from __future__ import annotations

from gbdnn.layers.recurrent.blstm import BLSTM
from gbdnn.layers.recurrent.embedding import Embedding
from gbdnn.layers.recurrent.gru import GRU
from gbdnn.layers.recurrent.heads import LastStep, MeanOverTime
from gbdnn.layers.recurrent.lstm import LSTM

__all__ = ["BLSTM", "GRU", "LSTM", "Embedding", "LastStep", "MeanOverTime"]

"""Training: the backward pass, optimizers, the loop, checkpoints.

The equations are in `model.py`, the loop in `loop.py`, its settings in `trainer.py`.
"""

from gbdnn.training.history import History
from gbdnn.training.loop import Training
from gbdnn.training.optimizers import SGD, Adam, AdamW
from gbdnn.training.results import Event, Result
from gbdnn.training.schedules import Constant, Cosine, StepDecay, WarmUp
from gbdnn.training.stopping import EarlyStopping
from gbdnn.training.trainer import Trainer

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Constant",
    "Cosine",
    "EarlyStopping",
    "Event",
    "History",
    "Result",
    "StepDecay",
    "Trainer",
    "Training",
    "WarmUp",
]

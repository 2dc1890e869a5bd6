"""Training: the backward pass, optimizers, the loop, checkpoints.

The equations are in `model.py`, the loop in `loop.py`, its settings in `trainer.py`.
"""

from gbdnn.training.gradients import gradients, prune
from gbdnn.training.history import History
from gbdnn.training.hooks import Event, Hook
from gbdnn.training.optimizers import SGD, Adam, AdamW
from gbdnn.training.schedules import Constant, Cosine, StepDecay, WarmUp
from gbdnn.training.step import Result, Training
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
    "Hook",
    "Result",
    "StepDecay",
    "Trainer",
    "Training",
    "WarmUp",
    "gradients",
    "prune",
]

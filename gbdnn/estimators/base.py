"""What classifier and regressor share: parameters, `fit`, and what a fitted estimator holds."""

from __future__ import annotations

import math
import sys
import warnings
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import scipy.sparse as sp
from sklearn.base import BaseEstimator, is_regressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted, validate_data

from gbdnn.data.batches import ArrayBatches
from gbdnn.data.inputs import as_inputs
from gbdnn.data.samples import as_weights
from gbdnn.errors import DivergenceError, MemoryBudgetError, ShapeError, TrainingInterrupted
from gbdnn.estimators import settings
from gbdnn.estimators.columns import occurring, spread, warn_of_width
from gbdnn.estimators.files import Saved
from gbdnn.estimators.holding_out import hold_out
from gbdnn.layers import LOSSES
from gbdnn.models import mlp
from gbdnn.network import Network
from gbdnn.training import EarlyStopping, Result, Trainer, Training, stored
from gbdnn.training.loop import run
from gbdnn.training.model import Model
from gbdnn.training.schedules import InverseScaling
from gbdnn.types import Array
from gbdnn.weights.foreign import from_scipy

__all__ = ["SparseMLP"]

Samples = tuple[Any, Array, Array]  # X, targets, weights
FROM_Y: Any = object()  # in place of classes: all that there are stand in y
NOTHING: tuple[list[float], int] = ([], 0)  # loss_curve_ and t_ before the first pass


@dataclass(eq=False, repr=False)
class SparseMLP(Saved, BaseEstimator):  # type: ignore[misc]
    """What classifier and regressor share. The fields are scikit-learn's parameters."""

    hidden_layer_sizes: Any = (100,)
    _: KW_ONLY
    density: Any = 0.1
    topology: str = "erk"
    growth: Any = "rigl"
    activation: str = "relu"
    solver: str = "adam"
    alpha: float = 0.1
    batch_size: Any = "auto"
    learning_rate: Any = "warm-up"
    learning_rate_init: Any = "auto"
    power_t: float = 0.5
    max_iter: int = 200
    shuffle: bool = True
    random_state: Any = None
    tol: float = 1e-4
    verbose: bool = False
    warm_start: bool = False
    momentum: float = 0.9
    nesterovs_momentum: bool = True
    early_stopping: bool = False
    validation_fraction: float = 0.1
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    n_iter_no_change: float = 10
    dtype: Any = "float32"
    backend: str = "fused"
    threads: int | None = None

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train from scratch, or with `warm_start` from where the last call ended.

        Parameters
        ----------
        X : array_like or scipy sparse, shape (n_samples, n_features)
            A sparse X stays sparse. Not changed.
        y : array_like, shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array_like, shape (n_samples,), optional
            Not negative, not all zero. A sample of weight 2 counts as two samples.

        Returns
        -------
        self

        Raises
        ------
        InputError (ValueError) and its subclasses
            A parameter or argument that does not fit; scikit-learn's own checks of X and y raise
            its ValueErrors.
        DivergenceError
            The loss or a gradient was not finite; the estimator keeps the last good weights.
        KeyboardInterrupt
            On Ctrl-C; the estimator keeps what it has learned and can predict. (scikit-learn's
            only warns; then a grid search or a script goes on as if nothing had happened.)
        """
        result = self.train(X, y, sample_weight)
        if result.stopped == "epochs" and self.learning_rate in settings.ENDLESS:
            message = f"max_iter={self.max_iter} reached before the training converged"
            warnings.warn(message, ConvergenceWarning, stacklevel=2)
        return self

    def train(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        loss: str | None = None,
        dropout: float = 0.0,
        split: tuple[Array, Array] | None = None,
        resume: bool = False,
        **changes: Any,
    ) -> Result:
        """Do what `fit` does, with settings for which scikit-learn's parameters have no names.

        Parameters
        ----------
        X, y, sample_weight
            As in `fit`.
        loss : str, optional
            A name of `gbdnn.layers.LOSSES`; default: what fits the targets.
        dropout : float
            Rate behind each hidden layer.
        split : tuple of ndarray of int, optional
            Numbers of the samples for training and for validation.
        resume : bool
            Go on from the newest checkpoint; see `Trainer.fit`.
        **changes
            Fields of `Trainer` that are to be others than the parameters say: optimizer,
            batch_size, callbacks, checkpoint, ...

        Returns
        -------
        Result
        """
        settings.check(self)
        self._asked = loss
        warm = self.warm_start and hasattr(self, "network_")
        if not warm:  # whatever fails below: no attributes of two trainings side by side
            self.__dict__.pop("network_", None)
        X, targets, weights = self._samples(X, y, sample_weight, reset=not warm)
        start, draw, order = settings.seeds(self.random_state)
        split = self._split(targets, weights, draw) if split is None else split
        held_out = None
        if split is not None:
            parts = [(X[ids], targets[ids], weights[ids]) for ids in split]
            (X, targets, weights), held_out = parts[0], parts[1] if len(split[1]) else None
        features, columns = X.shape[1], None if warm else occurring(X)
        if columns is not None:
            X = X[:, columns]
            held_out = held_out and (held_out[0][:, columns], *held_out[1:])
        network = self._network(X.shape[1], start, reset=not warm, dropout=dropout)
        batch = changes.pop("batch_size", None) or self._batch_size(len(weights))
        trainer = self._trainer(batch, weights, order, network, started=not warm)
        rules = {
            "sparsifier": settings.growth(self.growth, settings.steps(self, batch, weights)),
            "early_stopping": self._stopping(),
            "progress": bool(self.verbose),
        }
        trainer = replace(trainer, **(rules | changes))
        self._going: Training | tuple[Any, ...] | None = None
        before = (self.loss_curve_, self.t_) if warm else NOTHING

        def keep(result: Result) -> Result:
            if columns is not None:
                result = replace(result, network=spread(result.network, columns, features))
            self._keep(result, len(weights), before)
            return result

        warn_of_width(X, network, trainer.batch_size)
        try:
            return keep(
                trainer.fit(
                    network, X, targets, sample_weight=weights, validation=held_out, resume=resume
                )
            )
        except (DivergenceError, TrainingInterrupted) as error:
            keep(error.result)
            raise

    def _partial_fit(self, X: Any, y: Any, sample_weight: Any, classes: Any = None) -> Self:
        settings.check(self, partial=True)
        self._asked = None
        first = not hasattr(self, "network_")
        X, targets, weights = self._samples(X, y, sample_weight, reset=first, classes=classes)
        batch = min(self._batch_size(len(weights), clip=True), len(weights))
        training = self._training(X.shape[1], weights, batch, first)
        if first:
            warn_of_width(X, training.model.origin, batch)
        inputs = as_inputs(X, training.model.in_features, training.model.dtype)
        before = (self.loss_curve_, self.t_) if training.epoch else NOTHING
        training.records = []  # thousands of calls do not carry the records of all
        training.position = 0  # an interrupted pass is not gone on with: these are other samples
        training.loss_sum = training.weight_sum = 0.0
        rate = settings.rate(self, training.model.origin)
        if self.learning_rate == "invscaling":
            rate *= InverseScaling(float(self.power_t))(before[1], 1)
        training.use(replace(training.trainer, epochs=training.epoch + 1, learning_rate=rate))
        try:
            run(training, ArrayBatches(inputs, targets, weights, batch, bool(self.shuffle)))
        finally:  # also what was reached when it was interrupted
            self._going = training
            self._keep(training.result(""), len(weights), before)
        if self.verbose:
            print(f"pass {self.n_iter_}: loss {self.loss_:.6f}", file=sys.stderr)
        return self

    def _training(self, features: int, weights: Array, batch: int, first: bool) -> Training:
        """Return the training to go on with: the live one, that of the pickle, or a new one."""
        going = None if first else getattr(self, "_going", None)
        if isinstance(going, Training):
            return going
        if going is not None:
            trainer, seed, tensors, record = going
            training = _training(trainer, self.network_)
            training.seed = seed
            own = {name: np.array(tensor) for name, tensor in tensors.items()}  # may be mapped
            stored.load(Path("pickle"), training, own, record)
            return training
        start, _, order = settings.seeds(self.random_state)
        network = self._network(features, start, reset=first)
        trainer = replace(self._trainer(batch, weights, order, network), schedule="constant")
        return _training(trainer, network)

    # -- samples -----------------------------------------------------------------------------------

    def _samples(
        self, X: Any, y: Any, sample_weight: Any, *, reset: bool, classes: Any = FROM_Y
    ) -> Samples:
        """Return checked samples, targets as the loss wants them, and weights."""
        X, y = validate_data(
            self, _looked_through(X), y, accept_sparse="csr", dtype="numeric", multi_output=True,
            reset=reset, y_numeric=is_regressor(self),
        )  # fmt: skip
        weights = as_weights(sample_weight, X.shape[0])
        targets, weights = self._targets(y, weights, reset=reset, classes=classes)
        return X, targets, weights

    def _targets(
        self, y: Any, weights: Array, *, reset: bool, classes: Any = FROM_Y
    ) -> tuple[Array, Array]:
        raise NotImplementedError

    def _names(self) -> dict[str, Any]:
        """Return what a model file says of samples, and of results, besides the network."""
        names = getattr(self, "feature_names_in_", None)
        return {} if names is None else {"feature_names": names.tolist()}

    def _labels(self, targets: Array) -> Array | None:
        """Return the label of each sample, if each has one."""
        return None

    def _split(self, targets: Array, weights: Array, seed: int) -> tuple[Array, Array] | None:
        """Return the samples for training and for validation; None without early stopping."""
        if not self.early_stopping:
            return None
        part = float(self.validation_fraction)
        return hold_out(np.flatnonzero(weights), self._labels(targets), part, seed)

    def _batch_size(self, samples: int, *, clip: bool = False) -> int:
        if self.batch_size == "auto":
            return min(200, samples)
        if self.batch_size > samples and not clip:
            message = f"batch_size={self.batch_size} is above the {samples} samples; using these"
            warnings.warn(message, stacklevel=3)
            return samples
        return int(self.batch_size)

    # -- network and training ----------------------------------------------------------------------

    def _network(self, features: int, seed: int, *, reset: bool, dropout: float = 0.0) -> Network:
        """Return the network to start from: a new one, or that of the last call."""
        sizes = [features, *settings.hidden_sizes(self.hidden_layer_sizes), self.n_outputs_]
        if reset:
            self.n_layers_ = len(sizes)
            try:
                return mlp(
                    sizes, density=self.density, topology=self.topology,
                    activation=settings.ALIASES.get(self.activation, self.activation),
                    head=LOSSES[self._loss()].absorbs or "identity", dropout=dropout,
                    dtype=self.dtype, rng=seed,
                )  # fmt: skip
            except MemoryBudgetError as error:
                what = "hidden_layer_sizes"
                raise MemoryBudgetError(what, error.expected, error.got, error.fix) from None
        known = [self.network_.in_features, *(len(b) for b in self.intercepts_)]
        if known != sizes:
            raise ShapeError(
                "hidden_layer_sizes", f"layers of {known} neurons, as in the last call",
                f"{sizes}", "To change them use a new estimator, or warm_start=False.",
            )  # fmt: skip
        return self.network_.astype(self.dtype)

    def _loss(self) -> str:
        raise NotImplementedError

    def _trainer(
        self, batch: int, weights: Array, seed: int, network: Network, *, started: bool = False
    ) -> Trainer:
        """Return settings without early stopping or growth; `started`: of a new `fit`."""
        steps = settings.steps(self, batch, weights)
        batches = steps // int(self.max_iter)
        rate = settings.rate(self, network, steps if started else None)
        mean = float(weights.sum()) / batches
        return Trainer(
            loss=self._loss(), optimizer=settings.optimizer(self, mean, rate),
            learning_rate=rate, schedule=settings.schedule(self, batches, len(weights)),
            epochs=int(self.max_iter), batch_size=batch, shuffle=bool(self.shuffle),
            backend=self.backend, threads=self.threads, rng=seed,
        )  # fmt: skip

    def _stopping(self) -> EarlyStopping:
        """Return the rule that ends a training: on the validation score, else on the loss."""
        patience = min(self.n_iter_no_change, self.max_iter)  # infinity: never
        return EarlyStopping(
            patience=int(patience) + 1, min_delta=float(self.tol),
            monitor="validation_score" if self.early_stopping else "loss",
            restore_best=bool(self.early_stopping),
            divide_rate=5.0 if self.learning_rate == "adaptive" else 1.0,
        )  # fmt: skip

    def _keep(self, result: Result, samples: int, before: tuple[list[float], int]) -> None:
        """Set the attributes of a fitted estimator; `before` are loss_curve_ and t_."""
        self.network_, self.history_ = result.network, result.history
        self.network_.metadata.update(self._names())
        self.n_iter_ = result.training.epoch
        records = result.history.records  # none if it was interrupted early
        self.loss_curve_ = before[0] + [record["loss"] for record in records]
        self.t_ = before[1] + samples * len(records)
        self.loss_ = self.loss_curve_[-1] if self.loss_curve_ else float("nan")
        self.best_loss_ = None if self.early_stopping else min(self.loss_curve_, default=None)
        scores = [record["validation_score"] for record in records if self.early_stopping]
        self.validation_scores_ = scores if self.early_stopping else None
        self.best_validation_score_ = max(scores, default=None)

    # -- a fitted estimator ------------------------------------------------------------------------

    @property
    def coefs_(self) -> list[sp.csr_array]:
        """Weights as csr_array of shape (in, out), as scikit-learn has them; made at each call."""
        weights = self.network_.weights.values()
        return [w.pattern().with_entries(w.entries).to_scipy().T.tocsr() for w in weights]

    @property
    def intercepts_(self) -> list[Array]:
        """Biases, shape (out,); copies."""
        network = self.network_
        return [
            np.array(p) for name, p in network.parameters.items() if name not in network.weights
        ]

    @property
    def density_(self) -> float:
        """Stored weights over all places."""
        places = sum(math.prod(weight.shape) for weight in self.network_.weights.values())
        return float(self.network_.edges / places)

    def _outputs(self, X: Any) -> Array:
        """Return the network's outputs, shape (n_samples, n_outputs)."""
        check_is_fitted(self, "network_")
        X = validate_data(
            self, _looked_through(X), accept_sparse="csr", dtype="numeric", reset=False
        )
        outputs: Array = self.network_.predict(X, backend=self.backend, threads=self.threads)
        return outputs

    def __getstate__(self) -> dict[str, Any]:
        """Return what a pickle holds: the optimizer's vectors go along, live buffers do not."""
        state = dict(super().__getstate__())
        going = state.get("_going")
        if isinstance(going, Training):
            state["_going"] = (going.trainer, going.seed, *stored.dump(going))
        return state

    def __sklearn_tags__(self) -> Any:
        """Return scikit-learn's tags."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _training(trainer: Trainer, network: Network) -> Training:
    """Return a training that has not begun."""
    options: dict[str, Any] = {"backend": trainer.backend, "threads": trainer.threads}
    return Training(trainer, Model(network, loss=LOSSES[trainer.loss], **options))


def _looked_through(X: Any) -> Any:
    """Return X; a sparse one checked and by rows before scipy's compiled code reads its indices."""
    if not sp.issparse(X):
        return X
    indptr, indices, values, shape = from_scipy(X, "X")
    return sp.csr_array((values, indices, indptr), shape=shape)

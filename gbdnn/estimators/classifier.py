"""The classifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import column_or_1d

from gbdnn.data.samples import as_weights
from gbdnn.errors import DtypeError, InputError, ShapeError, choose
from gbdnn.estimators import settings
from gbdnn.estimators.base import FROM_Y, SparseMLP
from gbdnn.layers import LOSSES
from gbdnn.types import Array
from gbdnn.weights.csr import check_finite

__all__ = ["SparseMLPClassifier"]

HEADS = {"sigmoid": "logistic"}  # scikit-learn's name


@dataclass(eq=False, repr=False)
class SparseMLPClassifier(ClassifierMixin, SparseMLP):  # type: ignore[misc]
    r"""Multi-layer perceptron with sparse layers, for two or more classes or for many labels.

    Minimises the cross-entropy of Y_{k+1} = h(W_k Y_k + b_k) over the stored entries of the W_k;
    memory and time follow their number (`Network`, `Trainer`).

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int
        Neurons of the hidden layers; () makes a linear model.
    density : float or sequence of float
        Above 0, at most 1. One number: the part of all weights that exist, distributed by
        `topology`; but a layer gets no fewer than one weight for each neuron on its two sides, one
        of up to 32 inputs 8 for each of its neurons, or all. A sequence: exactly the density of
        each layer, that of the output layer last. A layer of density 1 is stored dense.
    topology : {"erk", "uniform"}
        Where connections are drawn at random: "erk" lets small layers be denser, "uniform" gives
        all hidden layers `density` and leaves the output layer dense (`gbdnn.models.mlp`).
    growth : "rigl", "set", None or `gbdnn.pruning.Sparsifier`
        What moves connections during `fit`: RigL (those of the largest gradients grow), SET (random
        ones), nothing. `partial_fit` moves none.
    activation : {"relu", "leaky_relu", "gelu", "tanh", "logistic", "identity"}
        Of the hidden layers; any activation in `gbdnn.layers.LAYERS` but softmax.
    solver : {"adam", "sgd", "adamw"}
    alpha : float
        L2 penalty, as in scikit-learn divided by the (weighted) number of samples in a batch; the
        default is larger than there, as sparse layers have larger weights. With "adamw" it is the
        decoupled weight decay, not divided.
    batch_size : int or "auto"
        "auto" is min(200, n_samples). Above n_samples: warning, and the whole.
    learning_rate : str or a schedule of `gbdnn.training`
        Over max_iter passes "warm-up" (a rise over the first twentieth, then "cosine"), "cosine" or
        "step"; or scikit-learn's "constant", "invscaling" (learning_rate_init / (`t_` + 1)^power_t
        from pass to pass) and "adaptive" (divided by 5 where training would end, until it is 1e-6),
        here with any solver. `partial_fit` does not know how long it goes on: there "warm-up" means
        "constant".
    learning_rate_init : float or "auto"
        "auto" is 0.002 / sqrt(the network's density); in a `fit` that makes fewer than 1,000 steps
        as many times more as these are, at most 5 times, but not with warm_start.
    power_t : float
        Of "invscaling".
    max_iter : int
        Passes over the data.
    shuffle : bool
    random_state : int, RandomState or None
        Of the connections, first weights, held-out samples and order. With an int and the fused
        backend `fit` gives the same bits each time, on any number of threads.
    tol, n_iter_no_change : float, int or infinity
        As in scikit-learn training ends when for more than n_iter_no_change passes in succession
        the loss was not lower (the validation score not higher) by `tol` than the best before. A
        pass that is no better at all counts as such with tol=0 too.
    verbose : bool
        Progress bar on standard error; in `partial_fit` a line for each pass.
    warm_start : bool
        `fit` goes on with the weights, connections and classes of the last call.
    momentum, nesterovs_momentum : float, bool
        Of "sgd".
    early_stopping, validation_fraction : bool, float
        Hold samples out, two at least, stop on their score, keep the weights of the best pass.
        Samples of weight 0 take no part. Classes are held out in proportion; where one has a single
        sample or there are more classes than samples to hold out, one of each stays to train on.
    beta_1, beta_2, epsilon : float
        Of "adam" and "adamw".
    dtype : {"float32", "float64"}
        What is computed in.
    backend : str
        As in `Network.predict`.
    threads : int, optional
        Default all cores. Inside a parallel grid search 1 is best.
    class_weight : dict, "balanced" or None
        Factors of the samples' weights by label; not for many labels.

    Attributes
    ----------
    classes_ : ndarray
    n_features_in_, n_outputs_, n_layers_, n_iter_ : int
        `n_iter_` counts passes: of the last `fit`, or calls of `partial_fit` since.
    t_ : int
        Samples seen: of each pass all that were trained on.
    feature_names_in_ : ndarray of str
        If X had names.
    network_ : Network
        Can be saved, pruned, and run by itself.
    coefs_, intercepts_ : list of csr_array of shape (in, out), list of ndarray
    density_ : float
        What there is; above `density` in small networks.
    history_ : History
        Of the last call.
    loss_, best_loss_, loss_curve_ : float, float, list of float
        Of the cross-entropy, of many labels their sum, without the penalty.
    validation_scores_, best_validation_score_ : list of float, float
        None without early stopping.
    out_activation_ : str
        "logistic" for two classes and many labels, else "softmax".

    Notes
    -----
    When max_iter is reached and the learning rate does not fall to 0 by then ("constant",
    "invscaling", "adaptive") there is a ConvergenceWarning. A pickle
    holds the network and, after `partial_fit`, the optimizer's state, so that it can go on.

    Where fewer than half of the features occur in X (are not zero in all samples), as with hashed
    words, `fit` gives connections to these only: to others they would keep their first values.

    Of scikit-learn's estimator checks all pass in float64. In float32 three that compare to 1e-7
    (weights against repeated samples, twice, and predictions in parts) see the rounding of sums.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from gbdnn.estimators import SparseMLPClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> model = SparseMLPClassifier((256,), random_state=0)
    >>> model.fit(X[:1200], y[:1200]).score(X[1200:], y[1200:]) > 0.9
    True
    >>> model.coefs_[0].shape, round(model.density_, 3)
    ((64, 256), 0.1)
    """

    class_weight: Any = None

    def partial_fit(
        self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None
    ) -> SparseMLPClassifier:
        """Make one pass over some samples; the optimizer's state is kept from call to call.

        Of the settings learning_rate_init, power_t, shuffle and verbose may change between calls.

        Parameters
        ----------
        X, y, sample_weight
            As in `fit`.
        classes : array_like, shape (n_classes,)
            All labels that will ever come; needed in the first call (not for many labels).

        Returns
        -------
        self

        Raises
        ------
        InputError
            For labels that are not among the classes, and settings that need to know the length
            of the training: growth, early_stopping, a schedule, class_weight="balanced".
        """
        return self._partial_fit(X, y, sample_weight, classes)

    def predict(self, X: Any) -> Array:
        """Return the most probable class of each sample, or for many labels a matrix of 0 and 1.

        Parameters
        ----------
        X : array_like or scipy sparse, shape (n_samples, n_features)
        """
        outputs = self._outputs(X)
        if self._many_labels:
            return (outputs > 0.5).astype(np.int64)
        one = self.n_outputs_ == 1
        codes = (outputs[:, 0] > 0.5).astype(np.int64) if one else outputs.argmax(axis=1)
        return np.asarray(self.classes_[codes])

    def predict_proba(self, X: Any) -> Array:
        """Return probabilities, shape (n_samples, n_classes), in the order of `classes_`."""
        outputs = self._outputs(X)
        if self.n_outputs_ == 1 and not self._many_labels:
            return np.hstack([1 - outputs, outputs])
        return outputs

    def predict_log_proba(self, X: Any) -> Array:
        """Return the logarithms of `predict_proba`; of probability 0 minus infinity."""
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(self.predict_proba(X)))

    # -- labels ------------------------------------------------------------------------------------

    def _targets(
        self, y: Any, weights: Array, *, reset: bool, classes: Any = FROM_Y
    ) -> tuple[Array, Array]:
        """Return codes of classes or a matrix of labels, and weights times class weights."""
        try:
            check_classification_targets(y)
            kind = type_of_target(y, input_name="y")
        except TypeError:
            if any(isinstance(label, bytes) for label in np.ravel(y).tolist()):
                fix = "Decode them: numpy.char.decode(y.astype(bytes))."
                raise DtypeError("y", "labels as text, not bytes", "bytes", fix) from None
            got = "some that have no common order, such as text and None"
            raise DtypeError("y", "labels of one kind", got) from None
        many = kind == "multilabel-indicator"
        if kind.endswith("multioutput"):
            expected = "one label for each sample, or an indicator matrix of 0 and 1"
            raise ShapeError("y", expected, f"shape {y.shape} with other values")
        y = y.toarray() if sp.issparse(y) else y
        y = y if many else column_or_1d(y, warn=True)
        if reset:
            self._learn_classes(y, many, classes)
        elif many != self._many_labels or (many and y.shape[1] != self.n_outputs_):
            expected = "targets of the kind and number of the last call"
            raise ShapeError("y", expected, f"{kind}, shape {y.shape}")
        elif not (classes is None or classes is FROM_Y or self._are_known(classes)):
            got, fix = f"{classes}", "Leave classes out after the first call."
            raise InputError("classes", f"those of the first call, {self.classes_}", got, fix)
        if many:
            if self.class_weight is not None:
                raise InputError("class_weight", "None for many labels", repr(self.class_weight))
            return y, weights
        codes = settings.codes(y, self.classes_)
        weights = weights * settings.class_factors(self.class_weight, self.classes_, codes, weights)
        classes_wanted = LOSSES[self._loss()].kind == "classes"
        return codes if classes_wanted else codes[:, None], as_weights(weights, len(weights))

    def _learn_classes(self, y: Array, many: bool, classes: Any) -> None:
        """Set what follows from the labels of the first call."""
        if classes is None and not many:
            fix = "Later batches may have labels that this one lacks: classes=np.unique(all_y)."
            raise InputError("classes", "all labels, in the first call", "None", fix)
        if classes is None or classes is FROM_Y:
            known = np.arange(y.shape[1]) if many else np.unique(y)
        else:
            known = np.unique(column_or_1d(classes))
            if known.dtype.kind == "f":
                check_finite("classes", known)
        if many and len(known) != y.shape[1]:
            raise InputError("classes", f"None or {y.shape[1]} labels", f"{len(known)}")
        if len(known) < 2 and not many:
            raise InputError("y", "at least two classes", f"one class only, {known}")
        self.classes_, self._many_labels = known, many
        two = many or len(known) == 2
        one = "label_cross_entropy" if many else "binary_cross_entropy"
        self._loss_of = one if two else "cross_entropy"
        loss = LOSSES[choose("loss", self._loss(), LOSSES)]
        if not two and loss.kind != "classes":
            expected = f"one that takes {len(known)} classes, such as 'cross_entropy'"
            raise InputError("loss", expected, repr(loss.name))
        self.n_outputs_ = len(known) if many or len(known) > 2 or loss.least_outputs > 1 else 1
        self.out_activation_ = HEADS.get(loss.absorbs or "", loss.absorbs or "identity")

    def _names(self) -> dict[str, Any]:
        """Return the names of features and classes, where there is one class for a sample."""
        classes = self.classes_.tolist()
        plain = all(isinstance(name, str | int | float) for name in classes)  # what JSON can say
        return super()._names() | ({"classes": classes} if plain and not self._many_labels else {})

    def _are_known(self, classes: Any) -> bool:
        return np.array_equal(np.unique(column_or_1d(classes)), self.classes_)

    def _loss(self) -> str:
        return self._asked or self._loss_of

    def _labels(self, targets: Array) -> Array | None:
        return None if self._many_labels else self.classes_[targets.ravel().astype(np.int64)]

    def __sklearn_tags__(self) -> Any:
        """Return scikit-learn's tags."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

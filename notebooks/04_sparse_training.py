# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Training with sparse weights
#
# Most libraries train sparse networks as dense ones with a mask: what is masked costs memory and time like
# the rest. Here a weight is a sparse matrix throughout. The way back is three semiring products
# that follow the non-zeros, the optimizer's state has one number per non-zero, and when a method moves
# connections, the pattern itself changes.
#
# Data are the digits that come with scikit-learn (8 x 8 pixels). `GBDNN_MNIST=mnist.npz`, a file with
# arrays `X` and `y`, takes MNIST instead. As in notebook 02 everything runs on **one thread**, so that
# times compare the engines and not the schedulers.

# %%
import math
import os
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path

import graphblas as gb
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import gbdnn
from gbdnn.backends import get_backend
from gbdnn.backends.base import aligned_empty
from gbdnn.machine import machine, peak_rss_bytes, versions
from gbdnn.models import mlp
from gbdnn.pruning import prune, pruning_report, sparsifier
from gbdnn.topology import erdos_renyi, erk_densities
from gbdnn.weights import as_weight

sys.path.insert(0, "..")  # where benchmarks is, a folder of the checkout
from benchmarks.burble import kernels_of

gb.init("suitesparse", blocking=True)
FAST = os.environ.get("GBDNN_NOTEBOOK_FAST") == "1"  # smaller sizes, for the tests
MNIST = None if FAST else os.environ.get("GBDNN_MNIST")
THREADS = 1
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"  # Okabe-Ito
STYLE = {"dense": ("#000000", "X"), "static": (ORANGE, "s"), "set": (BLUE, "^"),
         "rigl": (RED, "o"), "magnitude": (GREEN, "D")}
LABEL = {"set": "SET", "rigl": "RigL", "magnitude": "magnitude pruning"}
plt.rcParams.update({"figure.dpi": 110, "font.size": 10, "axes.spines.top": False,
                     "axes.spines.right": False})

here = machine()
print(f"{here['processor']}, {here['cores']} cores ({', '.join(here['vectors'])}), "
      f"{THREADS} thread")
print(", ".join(f"{name} {number}" for name, number in versions().items()))


def table(frame, formats):
    """Return a DataFrame whose numbers are written as the formats say."""
    return frame.assign(**{name: frame[name].map(form.format) for name, form in formats.items()})


def load():
    """Return X, y for training and for testing, and the side of an image."""
    if MNIST:
        with np.load(MNIST) as file:
            X, y = file["X"].reshape(len(file["X"]), -1), file["y"].astype(np.int64)
        X = X.astype(np.float32) / 255
        return X[:20_000], y[:20_000], X[-10_000:], y[-10_000:], 28  # MNIST's own test images
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    X, y = load_digits(return_X_y=True)
    parts = train_test_split((X / 16).astype(np.float32), y, test_size=1 / 3, random_state=0,
                             stratify=y)
    return parts[0], parts[2], parts[1], parts[3], 8


X, y, X_test, y_test, SIDE = load()
print(f"{'MNIST' if MNIST else 'digits'}: {len(X):,} images of {SIDE} x {SIDE} for training, "
      f"{len(X_test):,} for testing")

# %% [markdown]
# ## The way back, semiring by semiring
#
# Notebook 01 has the way forward, $Y_{k+1} = h(W_k Y_k + b_k)$ on neuron-major batches: one column per
# sample. For a loss $L$ write $dA$ for $\partial L/\partial A$. Backpropagation is
#
# $$\begin{aligned}
# dZ_k &= h'(Z_k) \times dY_{k+1} && \text{for the rectifier: a mask, the pattern of } Y_{k+1} \\
# dY_k &= W_k^T \;(+.\times)\; dZ_k && \text{a product like the forward one} \\
# dW_k\langle W_k \rangle &= dZ_k \;(+.\times)\; Y_k^T && \text{only where } W_k \text{ has entries} \\
# db_k &= \textstyle\bigoplus_j\, dZ_k(:, j) && \text{sums of rows}
# \end{aligned}$$
#
# $\langle W_k \rangle$ is GraphBLAS' structural mask. It is what makes training sparse: without it $dW_k$
# is a dense matrix of out x in, most of which is thrown away. A network small enough to print: 6
# inputs, 5 neurons, 3 classes, 4 samples; a dot is an absent entry.

# %%
def show(**matrices):
    """Print matrices side by side; absent entries are dots."""
    blocks = []
    for name, matrix in matrices.items():
        array = np.asarray(matrix.to_dense(np.nan) if isinstance(matrix, gb.Matrix) else matrix)
        cells = [["·" if np.isnan(v) else f"{v:.2f}" for v in row] for row in array]
        space = 2 + max(len(cell) for row in cells for cell in row)
        rows = ["".join(cell.rjust(space) for cell in row) for row in cells]
        width = max(len(rows[0]), len(name) + 2)
        blocks.append([name.rjust(width), *(row.rjust(width) for row in rows)])
    height = max(map(len, blocks))
    for lines in zip(*(b + [" " * len(b[0])] * (height - len(b)) for b in blocks), strict=True):
        print("   ".join(lines).rstrip())


rng = np.random.default_rng(3)
W = [erdos_renyi(rows, columns, density=density, rng=rng, dtype=np.float64).to_graphblas()
     for rows, columns, density in ((5, 6, 0.35), (3, 5, 0.6))]
b = [0.1 * rng.standard_normal(5), np.zeros(3)]
Y0 = gb.Matrix.from_dense(rng.random((6, 4)))
targets = np.array([0, 2, 1, 2])


# forward: the product accumulates into a full matrix that holds the bias
def affine(W, Y, b):
    Z = gb.Matrix.from_dense(np.repeat(b[:, None], Y.ncols, axis=1))
    Z(gb.binary.plus) << gb.semiring.plus_times(W @ Y)
    return Z


Z0 = affine(W[0], Y0, b[0])
Y1 = gb.select.valuegt(Z0, 0).new()  # the rectifier: what is not positive is not stored
Z1 = affine(W[1], Y1, b[1])
show(W0=W[0], Y0=Y0, Y1=Y1)

# the loss: softmax and cross-entropy together, mean over the samples (dZ1 = (P - one-hot) / n)
def loss(logits, targets):
    return (np.log(np.exp(logits).sum(axis=0)) - logits[targets, np.arange(len(targets))]).mean()


def loss_gradient(logits, targets):
    P = np.exp(logits) / np.exp(logits).sum(axis=0)
    P[targets, np.arange(len(targets))] -= 1
    return gb.Matrix.from_dense(P / len(targets))


# %% [markdown]
# Backward, from the last layer to the first:

# %%
plus_times = gb.semiring.plus_times
dZ1 = loss_gradient(Z1.to_dense(), targets)

dW1 = gb.Matrix(float, *W[1].shape)
dW1(W[1].S) << plus_times(dZ1 @ Y1.T)      # masked: only where W1 has entries
db1 = dZ1.reduce_rowwise(gb.monoid.plus).new()

dY1 = plus_times(W[1].T @ dZ1).new()       # through the layer
dZ0 = gb.Matrix(float, *dY1.shape)
dZ0(Y1.S) << dY1                           # h' of the rectifier is a mask: the pattern of Y1

dW0 = gb.Matrix(float, *W[0].shape)
dW0(W[0].S) << plus_times(dZ0 @ Y0.T)
db0 = dZ0.reduce_rowwise(gb.monoid.plus).new()
show(W1=W[1], dZ1=dZ1, dW1=dW1)
print()
show(dY1=dY1, dZ0=dZ0, dW0=dW0)

# %% [markdown]
# Is it right? Each stored weight and each bias is moved by $\pm\varepsilon$, and the difference of the
# losses, computed by numpy, divided by $2\varepsilon$. Then the same step by gbdnn's backends: after one
# step of plain gradient descent at rate 1 a weight has changed by minus its gradient.

# %%
dense_W = [matrix.to_dense(0.0) for matrix in W]


def numpy_loss(W, b):
    hidden = np.maximum(W[0] @ Y0.to_dense() + b[0][:, None], 0)
    return loss(W[1] @ hidden + b[1][:, None], targets)


def central_difference(array, place, step=1e-6):
    before, found = array[place], []
    for sign in (1, -1):
        array[place] = before + sign * step
        found.append(numpy_loss(dense_W, b))
    array[place] = before
    return (found[0] - found[1]) / (2 * step)


errors = []
for gradient, values, pattern in ((dW0, dense_W[0], W[0]), (dW1, dense_W[1], W[1]),
                                  (db0, b[0], None), (db1, b[1], None)):
    exact = gradient.to_dense(0.0)
    places = np.ndindex(values.shape) if pattern is None else zip(*pattern.to_coo(values=False)[:2],
                                                                  strict=True)
    errors += [abs(central_difference(values, place) - exact[tuple(place)]) for place in places]
assert max(errors) < 1e-8
print(f"{len(errors)} parameters: largest difference from central differences {max(errors):.1e}")

network = gbdnn.Network([gbdnn.Linear(W[0], b[0], dtype=np.float64), "relu",
                         gbdnn.Linear(W[1], b[1], dtype=np.float64), "softmax"])
for backend in ("graphblas", "graphblas-reference", "fused", "dense"):
    one_step = gbdnn.Trainer(optimizer="sgd", learning_rate=1.0, epochs=1, batch_size=4,
                             backend=backend, threads=THREADS)
    after = one_step.fit(network, Y0.to_dense().T, targets).network
    worst = max(abs(old.weight.to_dense() - new.weight.to_dense() - gradient.to_dense(0.0)).max()
                for old, new, gradient in zip(network.layers[::2], after.layers[::2], (dW0, dW1),
                                              strict=True))
    assert worst < 1e-14
    print(f"{backend}: the same gradient within {worst:.0e}")

# %% [markdown]
# **The dense gradient is never made.** GraphBLAS names the kernel that it ran: `dot3` computes one dot
# product for each entry of the mask; without a mask another kernel computes every place. The proof is a
# size at which the whole matrix could not exist.

# %%
SIZE = 100_000 if FAST else 1_000_000
wide = erdos_renyi(SIZE, SIZE, density=SIZE**-1.0, rng=0).to_graphblas()  # one a row on average
dZ, Y = (gb.Matrix.from_dense(rng.random((SIZE, 16), np.float32)) for _ in range(2))
small = [gb.Matrix.from_dense(rng.random((256, 16))) for _ in range(2)]
some = erdos_renyi(256, 256, density=0.05, rng=0).to_graphblas()
print("unmasked:", *kernels_of(lambda: plus_times(small[0] @ small[1].T).new()))
print("masked:  ", *kernels_of(lambda: gb.Matrix(float, 256, 256)(some.S).update(
    plus_times(small[0] @ small[1].T))))

begin = time.perf_counter()
dW = gb.Matrix(np.float32, *wide.shape)
dW(wide.S) << plus_times(dZ @ Y.T)
seconds = time.perf_counter() - begin
print(f"\n{SIZE:,} x {SIZE:,}, {wide.nvals:,} weights, 16 samples: {dW.nvals:,} gradients "
      f"in {seconds * 1e3:.0f} ms;")
print(f"this process has never held more than {peak_rss_bytes() / 1e9:.1f} GB; "
      f"out x in would take {4 * SIZE**2 / 1e9:,.0f} GB.")
assert dW.nvals == wide.nvals
del wide, dZ, Y, dW

# %% [markdown]
# What the mask leaves out is not useless: it says which *absent* connections the loss would like to have.
# The picture shows $dZ\,Y^T$ of a first layer on images, whole for once; the mask's part, which training
# computes; and the complement $\langle \lnot W \rangle$ with the entries that RigL would grow, the largest
# ones. An empty row is a neuron that is 0 for all of the samples.

# %%
rng = np.random.default_rng(5)
some = rng.permutation(len(X))[:128]
W = [erdos_renyi(rows, columns, density=density, rng=rng, dtype=np.float64).to_graphblas()
     for rows, columns, density in ((24, SIDE * SIDE, 0.1), (10, 24, 0.5))]
Y0 = gb.Matrix.from_dense(np.ascontiguousarray(X[some].T, np.float64))
Y1 = gb.select.valuegt(affine(W[0], Y0, np.zeros(24)), 0).new()
dZ1 = loss_gradient(affine(W[1], Y1, np.zeros(10)).to_dense(), y[some])
dZ0 = gb.Matrix(float, *Y1.shape)
dZ0(Y1.S) << plus_times(W[1].T @ dZ1)
whole = plus_times(dZ0 @ Y0.T).new()
inside, outside = gb.Matrix(float, *W[0].shape), gb.Matrix(float, *W[0].shape)
inside(W[0].S) << plus_times(dZ0 @ Y0.T)
outside(~W[0].S) << plus_times(dZ0 @ Y0.T)  # gbdnn has a block of this at a time

first = max(SIDE * SIDE // 2 - 64, 0)  # of MNIST's pixels the middle 128
pictures = [abs(matrix.to_dense(np.nan))[:, first:first + 128] for matrix in (whole, inside, outside)]
candidates = np.nan_to_num(pictures[2])
grown = np.unravel_index(np.argsort(candidates, axis=None)[-20:], candidates.shape)
names = ["dZ Yᵀ: all places", "dW⟨W⟩: what training computes",
         "the complement ⟨¬W⟩; rings: the 20 largest"]
figure, axes = plt.subplots(3, 1, figsize=(8.5, 7.8), layout="constrained", sharex=True)
cmap = plt.get_cmap("cividis").with_extremes(bad="#e6e6e6")
for ax, picture, name in zip(axes, pictures, names, strict=True):
    drawn = ax.imshow(picture, cmap=cmap, vmin=0, vmax=np.nanmax(pictures[0]), aspect="auto",
                      interpolation="nearest",
                      extent=(first - 0.5, first + picture.shape[1] - 0.5, 23.5, -0.5))
    ax.set(title=name, ylabel="neuron")
axes[2].plot(first + grown[1], grown[0], "o", color="white", markersize=9, fillstyle="none",
             markeredgewidth=1.5)
axes[2].set_xlabel("input pixel")
figure.colorbar(drawn, ax=axes, shrink=0.5, label="|gradient|")
plt.show()

# %% [markdown]
# ## What a step costs
#
# One layer, float32, batch 256: forward with rectifier, input gradient, weight gradient, and the update
# (Adam, and on the fused backend bringing $W^T$ up to date). The dense backend's times do not depend
# on the sparsity; the fused backend's do, and it is not faster at every one. Times here and below are
# medians in this process; other programs, if the load below is well above 1, disturb them.

# %%
SIZE, BATCH = (256, 64) if FAST else (2048, 256)
SPARSITIES = (0.5, 0.98) if FAST else (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
PARTS = ("forward", "input gradient", "weight gradient", "update")
print(f"load average of the last minute: {os.getloadavg()[0]:.1f} ({here['cores']} cores)")
adam = gbdnn.training.Adam()


def batch(features, width):
    """Random numbers in the shape in which training holds a batch: (tiles, features, width)."""
    tiles = -(-BATCH // width)
    array = aligned_empty(tiles * features * width, np.float32).reshape(tiles, features, width)
    array[...] = rng.random(array.shape, np.float32)
    return array


def calls(name, weight):
    """Return the parts of a step on a backend as functions, and the bytes of the layer's state."""
    backend = get_backend(name)
    form = backend.prepare(as_weight(weight), trained=True)
    form.refresh(THREADS)
    width = backend.width(SIZE, np.dtype(np.float32), BATCH)
    Y, Z, dZ, dY = (batch(SIZE, width) for _ in range(4))
    bias, relu, gradient = np.zeros(SIZE, np.float32), (0.0, np.inf), np.zeros_like(form.values)
    state = {slot: np.zeros_like(form.values) for slot in adam.slots}

    def update():
        adam.update(form.values, gradient, state, learning_rate=1e-4, step=1, decay=0.0,
                    threads=THREADS)
        form.refresh(THREADS)

    steps = (lambda: backend.affine(form, Y, bias, Z, clamp=relu, threads=THREADS),
             lambda: backend.input_grad(form, dZ, dY, THREADS),
             lambda: backend.weight_grad(form, dZ, Y, gradient, THREADS), update)
    numbers = form.nbytes + gradient.nbytes + sum(array.nbytes for array in state.values())
    return backend, dict(zip(PARTS, steps, strict=True)), numbers


def median_seconds(call, rounds=3 if FAST else 15):
    seconds = []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return np.median(seconds[1:])  # the first one may compile


rows = []
for name, levels in (("dense", (None,)), ("fused", SPARSITIES)):
    for sparsity in levels:
        weight = erdos_renyi(SIZE, SIZE, density=1 - (sparsity or 0), rng=0)
        backend, parts, nbytes = calls(name, weight.to_dense() if name == "dense" else weight)
        with backend.pinned(THREADS):
            times = {part: median_seconds(call) * 1e3 for part, call in parts.items()}
        rows.append({"backend": name, "sparsity": sparsity, **times, "all": sum(times.values()),
                     "nnz": weight.nnz, "MB": nbytes / 1e6, "bytes a weight": nbytes / weight.nnz})
        del weight, parts
costs = pd.DataFrame(rows)
dense, fused = costs[costs["backend"] == "dense"].iloc[0], costs[costs["backend"] == "fused"]

figure, axes = plt.subplots(1, 4, figsize=(11, 3.4), sharey=True, layout="constrained")
for ax, part in zip(axes, PARTS, strict=True):
    ax.plot(range(len(fused)), fused[part], "o-", color=RED, label="fused")
    ax.axhline(dense[part], color="black", linestyle="--", linewidth=1.5, label="dense (BLAS)")
    ax.set(yscale="log", title=part, xlabel="sparsity (%)")
    ax.set_xticks(range(len(fused)), [f"{100 * s:g}" for s in fused["sparsity"]])
    ax.yaxis.set_major_formatter("{x:g}")
    ax.grid(axis="y", color="#dddddd", linewidth=0.8)
axes[0].set_ylabel("median time (ms)")
axes[0].legend(frameon=False)
figure.suptitle(f"{SIZE} x {SIZE}, batch {BATCH}, {THREADS} thread")
plt.show()

shown = costs.assign(faster=dense["all"] / costs["all"],
                     sparsity=[f"{s:.0%}" if name == "fused" else "any" for name, s in
                               zip(costs["backend"], costs["sparsity"], strict=True)])
shown = shown.drop(columns="nnz").set_index(["backend", "sparsity"]).rename(columns={
    "all": "all, ms", "faster": "times dense"})
table(shown, dict.fromkeys([*PARTS, "all, ms"], "{:.2f}") | {
    "MB": "{:.1f}", "bytes a weight": "{:.1f}", "times dense": "{:.2f}"})

# %% [markdown]
# Below 1 in the last column the dense step is faster. The bytes hold weights, both orientations of the
# pattern, gradient and Adam's two moments: what the dense layer keeps for every place, the fused
# one keeps for every non-zero, and indices besides.
#
# ## Training
#
# Two hidden layers of 256 neurons, five ways:
#
# - **dense**: all weights, on the dense backend.
# - **static**: random places, the same from beginning to end.
# - **SET** (Mocanu et al. 2018): 37 times on the way a part of the weights, those of the smallest
#   magnitude, is dropped, and as many grow at random places.
# - **RigL** (Evci et al. 2020): the same, but they grow where the gradient is largest: the rings above.
# - **magnitude pruning** (Zhu and Gupta 2017): starts dense, and drops more and more of the smallest.
#
# Static, SET and RigL never hold a dense weight. In all four the layers get the densities of the
# Erdős-Rényi-Kernel rule: small layers are fuller.
#
# ### First the learning rate
#
# A neuron with few inputs needs larger weights: He's initial values have the scale
# $\sqrt{2/\text{fan-in}}$, so at density $d$ they are $1/\sqrt d$ times as large. Adam's steps have the size
# of the learning rate, whatever the gradient. With the dense network's rate a sparse one therefore moves
# by a smaller *part* of its weights: it learns too slowly, and the method gets the blame. The rule of
# thumb is $\text{rate} = \text{rate}_\text{dense} / \sqrt d$.

# %%
HIDDEN = (32, 32) if FAST else (256, 256)
EPOCHS, BATCH = (3 if FAST else 6 if MNIST else 25), (100 if MNIST else 50)
RATE = 3e-3  # of the dense network; 1e-3 is the usual choice for trainings that take longer
SEEDS = 1 if FAST or MNIST else 3


def make_network(hidden, seed, density=1.0):
    """Return a fresh network with weights at random places; of density 1 with dense weights."""
    widths = (X.shape[1], *hidden, 10)
    shapes = list(zip(widths[1:], widths[:-1], strict=True))  # (out_features, in_features)
    return mlp(widths, density=erk_densities(shapes, density=density), head="softmax",
               rng=np.random.default_rng([seed, 7]))


def train(method, sparsity, seed, rate=None):
    """Return the Result of one training; the test images are only looked at."""
    begins_dense = method in ("dense", "magnitude")
    rule = None
    if method == "magnitude":
        rule = sparsifier("magnitude", sparsity=sparsity, distribution="erk")
    trainer = gbdnn.Trainer(
        epochs=EPOCHS, batch_size=BATCH, schedule="warm-up", rng=seed, threads=THREADS,
        learning_rate=rate or (RATE if begins_dense else RATE / math.sqrt(1 - sparsity)),
        sparsifier=rule if begins_dense else method,
        backend="dense" if method == "dense" else "fused",
    )
    network = make_network(HIDDEN, seed, 1.0 if begins_dense else 1 - sparsity)
    return trainer.fit(network, X, y, validation=(X_test, y_test))


RATES = (1e-3, 3e-2) if FAST else (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
swept = {(method, sparsity): [train(method, sparsity, 0, rate).history["validation_loss"][-1]
                              for rate in RATES]
         for method, sparsity in (("dense", 0.0), ("static", 0.9), ("static", 0.98))}

figure, ax = plt.subplots(figsize=(6.8, 3.9), layout="constrained")
for (method, sparsity), color, marker in zip(swept, ("#000000", ORANGE, BLUE), "Xs^", strict=True):
    losses = swept[method, sparsity]
    ax.plot(RATES, losses, color=color, marker=marker,
            label="dense" if method == "dense" else f"{sparsity:.0%} sparse")
    ax.axvline(RATE / math.sqrt(1 - sparsity), color=color, linestyle=":", linewidth=1.5)
ax.plot([], [], color=GREY, linestyle=":", label="rule of thumb")
ax.set(xscale="log", yscale="log", xlabel="learning rate of Adam", ylabel="test loss at the end")
ax.yaxis.set_major_formatter("{x:g}")
ax.legend(frameon=False)
ax.set_title("Sparse networks want a larger learning rate")
plt.show()

# %% [markdown]
# ### Accuracy against non-zeros

# %%
LEVELS = (0.9,) if FAST else (0.8, 0.9, 0.95, 0.98, 0.99)
results = {}
for method in STYLE:
    for sparsity in LEVELS if method != "dense" else (0.0,):
        results[method, sparsity] = [train(method, sparsity, seed) for seed in range(SEEDS)]


def accuracy(runs):
    return np.array([100 * run.history["validation_score"][-1] for run in runs])


def training_seconds(runs):
    return np.median([run.history["seconds"][-1] for run in runs])


summary = pd.DataFrame([{
    "method": LABEL.get(method, method), "sparsity": f"{sparsity:.0%}",
    "non-zeros": runs[0].history["nnz"][-1], "accuracy": accuracy(runs).mean(),
    "worst": accuracy(runs).min(), "best": accuracy(runs).max(),
    "training, s": training_seconds(runs),
} for (method, sparsity), runs in results.items()]).set_index(["method", "sparsity"])
noise = 100 * math.sqrt(0.03 * 0.97 / len(X_test))
print(f"{EPOCHS} epochs, {SEEDS} seed(s); an accuracy near 97 % is known to +-{noise:.1f} points "
      f"(one standard error) from {len(X_test):,} images.")
table(summary, {"non-zeros": "{:,}", "accuracy": "{:.1f}", "worst": "{:.1f}", "best": "{:.1f}",
                "training, s": "{:.2f}"})

# %%
figure, (left, right, low) = plt.subplots(1, 3, figsize=(12.5, 4), layout="constrained",
                                          width_ratios=[5, 4, 4])
for method, (color, marker) in STYLE.items():
    found = [(runs[0].history["nnz"][-1], accuracy(runs)) for (name, _), runs in results.items()
             if name == method]
    count, scores = [nnz for nnz, _ in found], np.array([score for _, score in found])
    mean = scores.mean(axis=1)
    left.errorbar(count, mean, [mean - scores.min(axis=1), scores.max(axis=1) - mean],
                  color=color, marker=marker, capsize=2, label=LABEL.get(method, method),
                  linewidth=1.3)
dense_accuracy = accuracy(results["dense", 0.0]).mean()
left.axhline(dense_accuracy, color="black", linestyle="--", linewidth=1)
left.set(xscale="log", xlabel="non-zero weights", ylabel="test accuracy (%)",
         title="What the non-zeros buy")

CURVES = LEVELS[-2] if len(LEVELS) > 1 else LEVELS[0]
for method, (color, _) in STYLE.items():
    runs = results[method, 0.0 if method == "dense" else CURVES]
    epochs = np.arange(1, EPOCHS + 1)
    curve = np.mean([run.history["validation_score"] for run in runs], axis=0) * 100
    right.plot(epochs, curve, color=color, linewidth=1.5)
    low.plot(epochs, runs[0].history["nnz"], color=color, linewidth=1.5)
bottom = min(accuracy(runs).min() for (_, s), runs in results.items() if s <= CURVES) - 10
right.set(xlabel="epoch", ylim=(max(bottom, 0), 100.5), title=f"Test accuracy (%), {CURVES:.0%} sparse")
low.annotate("static, SET, RigL", (1, results["static", CURVES][0].history["nnz"][-1]), (0, -6),
             textcoords="offset points", va="top")
low.margins(y=0.14)
low.set(xlabel="epoch", yscale="log", title="Non-zero weights")
figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=5,
              frameon=False)
plt.show()

# %% [markdown]
# The fewer weights there are, the more it matters *where* they are: a static pattern falls first. On the
# digits RigL holds out longest. At moderate sparsity all methods are near the dense network, and a static
# pattern, the simplest of all, will do. Magnitude pruning does as much work as the dense network at
# first, and its rate is the dense network's to the end, when it is nearly as sparse as the others.
#
# ## Where the connections go
#
# Connections per input pixel, from all neurons of the first layer: before training every pixel gets the
# same by chance. The first picture is what the data say: how much a pixel varies over the images.

# %%
SHOWN = 0.95 if 0.95 in LEVELS else LEVELS[0]


def per_pixel(networks):
    """Return the mean number of connections of each pixel."""
    weights = [network.layers[0].weight for network in networks]
    return np.mean([np.bincount(weight.indices, minlength=SIDE * SIDE) for weight in weights],
                   axis=0)


maps = {"before": per_pixel([make_network(HIDDEN, seed, 1 - SHOWN) for seed in range(SEEDS)])}
for method in ("set", "rigl", "magnitude"):
    maps[f"after {LABEL[method]}"] = per_pixel([run.network for run in results[method, SHOWN]])
deviation = X.std(axis=0)
blank = deviation == 0

figure, axes = plt.subplots(1, 5, figsize=(12.5, 3), layout="constrained")
drawn = axes[0].imshow(deviation.reshape(SIDE, SIDE), cmap="gray")
axes[0].set_title("standard deviation")
figure.colorbar(drawn, ax=axes[0], shrink=0.7, location="bottom")
top = max(picture.max() for picture in maps.values())
for ax, (name, picture) in zip(axes[1:], maps.items(), strict=True):
    drawn = ax.imshow(picture.reshape(SIDE, SIDE), cmap="cividis", vmin=0, vmax=top)
    ax.set_title(name)
figure.colorbar(drawn, ax=axes[1:], shrink=0.35, location="bottom", aspect=40,
                label="connections of a pixel")
for ax in axes:
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
plt.show()

pd.DataFrame([{
    "": name, "connections of the layer": f"{picture.sum():,.0f}",
    f"of the {blank.sum()} pixels that never vary": f"{picture[blank].sum():,.0f}",
    "correlation with the standard deviation": f"{np.corrcoef(picture, deviation)[0, 1]:+.2f}",
} for name, picture in maps.items()]).set_index("")

# %% [markdown]
# RigL cannot grow at a pixel that is always 0, as the gradient there is exactly 0, and it is small where a
# pixel says little. SET grows anywhere, and what turns out useless stays small and is dropped again: it
# moves the same way by trial, more slowly. A connection to a blank pixel is never trained, keeps its
# initial value, and so is dropped only if that was small: magnitude is no perfect judge.
#
# ## After training: prune, fine-tune, save
#
# The other way to a sparse network: take a trained dense one, here with larger layers, remove the smallest
# weights at once, and train what is left as long again. `fit` keeps the patterns.
#
# One threshold for all layers (`distribution="global"`) takes most from the layers whose weights
# are small, at high sparsity nearly all of them, and then nothing gets through. Shares by ERK spare
# the small last layer.

# %%
LARGE = (64, 64) if FAST else (1024, 1024)
trainer = gbdnn.Trainer(epochs=2 if FAST or MNIST else 8, batch_size=BATCH, learning_rate=1e-3,
                        schedule="cosine", backend="dense", threads=THREADS)
original = trainer.fit(make_network(LARGE, 0), X, y).network
for distribution in ("global", "erk"):
    with warnings.catch_warnings(action="ignore"):  # which say that outputs are cut off
        kept = prune(original, 0.98, distribution=distribution).layers[::2]
    print(f"98 % pruned, {distribution}: " + ", ".join(f"{layer.edges:,}" for layer in kept)
          + " non-zeros in the three layers")
print()


def score(network):
    return 100 * (network.predict(X_test, threads=THREADS).argmax(axis=1) == y_test).mean()


def saved(network):
    """Save, load, compare; return the bytes of the file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        network.save(path)
        again = gbdnn.load(path)
        assert np.array_equal(again.predict(X_test, threads=THREADS),
                              network.predict(X_test, threads=THREADS))
        return path.stat().st_size


sample = X_test[:256]
options = {"X": sample, "threads": THREADS, "rounds": 3 if FAST else 25}
rows, reports = [], {}
for sparsity in (0.9,) if FAST else (0.8, 0.9, 0.95, 0.98):
    pruned = prune(original, sparsity, distribution="erk")
    fine_tune = replace(trainer, backend="fused",
                        learning_rate=trainer.learning_rate / math.sqrt(1 - sparsity))
    tuned = fine_tune.fit(pruned, X, y).network
    assert tuned.edges == pruned.edges
    report = reports[sparsity] = pruning_report(original, tuned, **options)
    on_dense = pruning_report(original, tuned, backend="dense", **options)
    if not rows:
        rows.append({"sparsity": 0.0, "pruned": score(original), "fine-tuned": score(original),
                     "file, KB": saved(original) / 1e3, "fused, ms": report.seconds[0] * 1e3,
                     "dense, ms": on_dense.seconds[0] * 1e3})
    rows.append({"sparsity": sparsity, "pruned": score(pruned), "fine-tuned": score(tuned),
                 "file, KB": saved(tuned) / 1e3, "fused, ms": report.seconds[1] * 1e3,
                 "dense, ms": on_dense.seconds[1] * 1e3})
after = pd.DataFrame(rows)
print(reports[0.9])

# %%
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11.5, 3.6), layout="constrained")
ticks = range(len(after))
left.plot(ticks, after["pruned"], "s--", color=ORANGE, label="pruned")
left.plot(ticks, after["fine-tuned"], "o-", color=GREEN, label="and fine-tuned")
left.set(title="Test accuracy (%)", ylim=(None, 101))
left.legend(frameon=False, loc="lower left")
bars = middle.bar(ticks, after["file, KB"], color=BLUE, width=0.6)
middle.bar_label(bars, [f"{size:,.0f}" for size in after["file, KB"]], padding=2)
middle.set(title="File (KB)")
middle.margins(y=0.12)
middle.yaxis.set_major_formatter("{x:,.0f}")
right.plot(ticks, after["dense, ms"], "X--", color="black", label="dense backend")
right.plot(ticks, after["fused, ms"], "o-", color=RED, label="fused backend")
right.set(title="predict, 256 samples (ms)", ylim=(0, 1.25 * after[["dense, ms", "fused, ms"]].max().max()))
right.legend(frameon=False, loc="upper right")
for ax in (left, middle, right):
    ax.set_xticks(ticks, ["dense" if s == 0 else f"{s:.0%}" for s in after["sparsity"]])
    ax.set_xlabel("sparsity")
plt.show()
table(after.assign(sparsity=after["sparsity"].map("{:.0%}".format)).set_index("sparsity"), {
    "pruned": "{:.1f}", "fine-tuned": "{:.1f}", "file, KB": "{:,.0f}", "fused, ms": "{:.3f}",
    "dense, ms": "{:.3f}"})

# %% [markdown]
# Loaded networks predict the same bits as those that were saved (asserted above). On the dense backend a
# pruned network is as slow as before: zeros are multiplied too. That is what "pruning changed nothing" means.
#
# ## Where sparse training gains least
#
# Whole training steps with everything that belongs to them, Adam included: time of the dense step over
# that of the fused one. At 1 sparsity has bought nothing: the smaller the layers and the lower the
# sparsity, the nearer to it.

# %%
def step_times(trainer, network):
    """Return the seconds of each step of a training."""
    stamps = [time.perf_counter()]
    watch = replace(trainer, callbacks=(lambda event: stamps.append(time.perf_counter())
                                        if event.kind == "step" else None,))
    total = trainer.epochs * -(-len(X) // trainer.batch_size)
    watch.fit(network, X, y)
    assert len(stamps) == total + 1
    return np.diff(stamps)


def dense_and_fused(size, sparsities):
    """Return the median step in seconds of each network with two hidden layers of `size`."""
    plain = gbdnn.Trainer(epochs=1 if MNIST else 2 if FAST else 3, batch_size=128, threads=THREADS)
    found = {}
    for sparsity in (0.0, *sparsities):
        trainer = replace(plain, backend="fused" if sparsity else "dense")
        steps = step_times(trainer, make_network((size, size), 0, 1 - sparsity))
        found[sparsity] = np.median(steps[3:])
    return found


LOSING = (0.5, 0.9) if FAST else (0.5, 0.8, 0.9, 0.95, 0.98)
rows = {}
for size in (32, 64) if FAST else (64, 256, 1024):
    found = dense_and_fused(size, LOSING)
    rows[size] = {"dense step, ms": f"{found[0.0] * 1e3:.2f}"} | {
        f"{sparsity:.0%}": f"{found[0.0] / found[sparsity]:.2f}" for sparsity in LOSING}
pd.DataFrame(rows).T.rename_axis(index="two layers of", columns="times as fast at sparsity:")

# %%
rigl = gbdnn.Trainer(epochs=5 if FAST or MNIST else 40, batch_size=128, threads=THREADS,
                     sparsifier="rigl")
steps = step_times(rigl, make_network((size, size), 0, 0.05))  # the last size above
changes = np.array(rigl.sparsifier.schedule.updates(len(steps)))
ordinary = np.delete(np.arange(len(steps)), changes)[3:]
usual, changing = np.median(steps[ordinary]), np.median(steps[changes])
print(f"RigL, hidden layers of {size}, 95 % sparse: an ordinary step takes {usual * 1e3:.2f} ms, "
      f"one that moves connections {changing * 1e3:.2f} ms ({changing / usual:.1f} times).")
print(f"{len(changes)} of {len(steps)} steps move connections, which takes "
      f"{len(changes) * (changing - usual) / steps.sum():.0%} of this short training's time; "
      "a longer one has as many.")

# %% [markdown]
# ## To take away
#
# - **The mask is the method.** $dW\langle W \rangle = dZ\,(+.\times)\,Y^T$ makes time and memory of
#   training follow the non-zeros. Nothing of out x in is made, and RigL's look at the complement is taken a block at a time.
# - **Raise the learning rate by $1/\sqrt d$** before concluding that sparse training does not work.
# - **Up to about 90 % sparsity** a static random pattern is close to the dense network on these data;
#   beyond, moving connections pays, and the more so the fewer are left.
# - **Pruning after training** needs the dense training first. It pays in the file and in prediction, and
#   in prediction only on a backend that skips zeros. Look at what is left of each layer.
#
# Where it gains little or loses: in *small layers* a step is calls, checks and bookkeeping, which sparsity
# does not reduce. At *low sparsity* BLAS does its larger work in about the same time, of a full matrix in
# less (the table of what a step costs). *RigL's growth* computes the gradient of absent
# entries, which costs up to that of a dense layer, at some steps of a training. *Very high sparsity* costs
# accuracy, whatever the method. And these are small images: a result here is an illustration, no benchmark;
# `docs/results.md` has the tables with more seeds and the commands that make them.

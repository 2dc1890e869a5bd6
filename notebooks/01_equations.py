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
# # The equations, semiring by semiring
#
# Kepner et al. 2017 ([arXiv:1708.02937](https://arxiv.org/abs/1708.02937)) write a network with the
# rectifier as matrix algebra over two semirings:
#
# | | set | $\oplus$ | $\otimes$ | identity of $\oplus$ | identity of $\otimes$ |
# |---|---|---|---|---|---|
# | $S_1$ | $\mathbb R$ | $+$ | $\times$ | $0$ | $1$ |
# | $S_2$ | $\mathbb R \cup \{-\infty\}$ | $\max$ | $+$ | $-\infty$ | $0$ |
#
# $$Y_{k+1} = h(W_k Y_k + b_k), \qquad h(z) = \max(z, 0)
# \qquad\Longleftrightarrow\qquad
# Y_{k+1} = \underbrace{(W_k Y_k)}_{S_1} \underbrace{\otimes\; b_k \oplus 0}_{S_2}$$
#
# $W_k$ has the shape (out_features, in_features), and a batch is *neuron-major*: $Y_k$ has the shape
# (features, batch), one column per sample. This notebook takes a small network through these
# operations one at a time, compares each with numpy in float64, and ends at the form that gbdnn runs.

# %%
import os
import time

import graphblas as gb
import matplotlib.pyplot as plt
import numpy as np

import gbdnn
from gbdnn.machine import machine, versions

gb.init("suitesparse", blocking=True)
FAST = os.environ.get("GBDNN_NOTEBOOK_FAST") == "1"  # smaller sizes, for the tests
OKABE_ITO = {"blue": "#0072B2", "orange": "#E69F00", "green": "#009E73", "red": "#D55E00"}
plt.rcParams.update({"figure.dpi": 110, "font.size": 10, "axes.spines.top": False,
                     "axes.spines.right": False})

here = machine()
print(f"{here['processor']}, {here['cores']} cores ({', '.join(here['vectors'])})")
print(", ".join(f"{name} {number}" for name, number in versions().items()))


# %% [markdown]
# ## A network small enough to print
#
# Three layers of six neurons, a third of the weights present, a batch of four samples. All numbers
# have few binary digits, so that sums are exact. A dot stands for an entry that is *absent*:
# not stored, not computed with.

# %%
def show(**matrices):
    """Print matrices side by side; absent entries are dots."""
    blocks = []
    for name, matrix in matrices.items():
        array = np.asarray(matrix.to_dense(np.nan) if isinstance(matrix, gb.Matrix) else matrix)
        cells = [["·" if np.isnan(v) else f"{v:.4g}" for v in row] for row in array]
        space = 2 + max(len(cell) for row in cells for cell in row)
        rows = ["".join(cell.rjust(space) for cell in row) for row in cells]
        width = max(len(rows[0]), len(name) + 2)
        blocks.append([name.rjust(width), *(row.rjust(width) for row in rows)])
    for lines in zip(*blocks, strict=True):
        print("   ".join(lines))


def check(name, found, expected):
    """Compare with numpy in float64. Numbers here are exact, so equality is asked for."""
    found = found.to_dense(0.0) if isinstance(found, gb.Matrix) else found
    assert np.array_equal(found, expected), name
    print(f"{name}: equal to numpy")


rng = np.random.default_rng(112)
SIZE, BATCH, DEPTH = 6, 4, 3
dense_W = [np.where(rng.random((SIZE, SIZE)) < 0.34,
                    rng.choice([-1, -0.5, 0.5, 1, 1.5], (SIZE, SIZE)), 0.0) for _ in range(DEPTH)]
dense_b = [rng.choice([-0.5, -0.25, 0.0], SIZE) for _ in range(DEPTH)]
X = np.where(rng.random((BATCH, SIZE)) < 0.6, rng.choice([1.0, 2.0], (BATCH, SIZE)), 0.0)

W = [gb.Matrix.from_dense(weight, missing_value=0.0) for weight in dense_W]
Y0 = gb.Matrix.from_dense(np.ascontiguousarray(X.T), missing_value=0.0)  # neuron-major
show(W0=W[0], W1=W[1], W2=W[2])
print()
show(b0=dense_b[0][:, None], b1=dense_b[1][:, None], b2=dense_b[2][:, None], Y0=Y0)

# %% [markdown]
# ## $S_1 = (+, \times)$: the product
#
# Only pairs of entries that are both present are multiplied. An entry of $Z$ is present if at least
# one such pair exists, even if the sum is 0.

# %%
Z = gb.semiring.plus_times(W[0] @ Y0).new()
show(W0=W[0], Y0=Y0, Z=Z)
check("S1, W Y", Z, dense_W[0] @ X.T)
pairs = int((dense_W[0] != 0).sum(axis=0) @ (X.T != 0).sum(axis=1))
print(f"{pairs} multiplications; the dense product makes {SIZE * SIZE * BATCH}")

# %% [markdown]
# ## $S_2 = (\max, +)$: bias and rectifier
#
# In $S_2$ "times" is $+$, so multiplying by $b$ *adds* the bias, and "plus" is $\max$, so adding $0$
# *is the rectifier*. As a matrix product the bias is the diagonal matrix $D_b$ whose absent entries
# are the $\oplus$-identity $-\infty$:
#
# $$(D_b \otimes Z)_{ij} = \max_k \,(D_{ik} + Z_{kj}) = b_i + Z_{ij}.$$
#
# numpy checks this literally, with $-\infty$ written out.

# %%
D = gb.Vector.from_dense(dense_b[0]).diag()
shifted = gb.semiring.max_plus(D @ Z).new()

Z_inf, D_inf = Z.to_dense(-np.inf), D.to_dense(-np.inf)
by_definition = (D_inf[:, :, None] + Z_inf[None, :, :]).max(axis=1)
assert np.array_equal(shifted.to_dense(-np.inf), by_definition)

Y1 = gb.select.valuegt(shifted, 0).new()  # max with 0, and zeros are not stored
show(**{"Z": Z, "D (x) Z": shifted, "... (+) 0 = Y1": Y1})
check("S2, max(Z + b, 0)", Y1, np.maximum(dense_W[0] @ X.T + dense_b[0][:, None], 0))


# %% [markdown]
# The rectifier is not linear over $S_1$, but over $S_2$ it is a sum, and semirings distribute:
# $(A \oplus C) \otimes b = (A \otimes b) \oplus (C \otimes b)$.

# %%
A, C = (rng.integers(-4, 5, (SIZE, BATCH)) / 4 for _ in range(2))
b = dense_b[0][:, None]
assert np.array_equal(np.maximum(A, C) + b, np.maximum(A + b, C + b))
print("S2 distributes: equal")


# %% [markdown]
# ## A layer, a network
#
# This is the whole forward pass of the paper; `gbdnn.backends.graphblas.reference.step` is the same four
# lines, with the cap of the Graph Challenge added.

# %%
def layer(W, Y, b):
    Z = gb.semiring.plus_times(W @ Y).new()                              # S1
    Z = gb.semiring.max_plus(gb.Vector.from_dense(b).diag() @ Z).new()   # S2: (x) b
    return gb.select.valuegt(Z, 0).new()                                 # S2: (+) 0


def numpy_network(X, weights, biases):
    Y = X.T
    for weight, b in zip(weights, biases, strict=True):
        Y = np.maximum(weight @ Y + b[:, None], 0)
    return Y


Ys = [Y0]
for weight, b in zip(W, dense_b, strict=True):
    Ys.append(layer(weight, Ys[-1], b))
show(**{f"Y{k}": Y for k, Y in enumerate(Ys)})
check("three layers", Ys[-1], numpy_network(X, dense_W, dense_b))

from gbdnn.backends.graphblas.reference import step

Y = Y0
for weight, b in zip(W, dense_b, strict=True):
    Y = step(weight, Y, gb.Vector.from_dense(b).diag())
assert Y.isequal(Ys[-1])
print("gbdnn.backends.graphblas.reference.step: the same entries")


# %%
def draw(ax, matrix, title):
    values = matrix.to_dense(np.nan)
    ax.imshow(values, cmap="cividis", vmin=-2, vmax=3, aspect="equal")
    for (i, j), value in np.ndenumerate(values):
        bright = not np.isnan(value) and value > 0.5
        text = "·" if np.isnan(value) else f"{value:g}"
        ax.text(j, i, text, ha="center", va="center", fontsize=8,
                color="black" if bright or np.isnan(value) else "white")
    ax.set(title=title, xticks=range(values.shape[1]), yticks=range(values.shape[0]))
    ax.tick_params(length=0, labelsize=8)
    ax.spines[:].set_visible(True)


figure, axes = plt.subplots(1, 5, figsize=(11, 3.1), width_ratios=[6, 4, 4, 4, 4],
                            layout="constrained")
for ax, matrix, title in zip(
    axes, (W[0], Y0, Z, shifted, Y1),
    ("$W_0$", "$Y_0$", "$S_1$: $Z = W_0 Y_0$", r"$S_2$: $Z \otimes b_0$", r"$\oplus\, 0$: $Y_1$"),
    strict=True,
):
    draw(ax, matrix, title)
    ax.set_xlabel("input neuron" if matrix is W[0] else "sample")
axes[0].set_ylabel("output neuron")
figure.suptitle("One layer; dots are entries that are not stored")
plt.show()

# %% [markdown]
# ## Where b > 0, absence means two things
#
# An absent entry is the identity of $\oplus$: $0$ in $S_1$, but $-\infty$ in $S_2$. Between the two
# operations nothing converts one into the other. For $b_i \le 0$ that is harmless, since
# $\max(0 + b_i, 0) = 0$ and the entry stays absent. For $b_i > 0$ the right answer is $b_i$, but
# $\max(-\infty + b_i, 0) = 0$: **the bias is lost wherever no edge brought anything.**

# %%
positive = np.abs(dense_b[0]) + 0.25
sparse_form = layer(W[0], Y0, positive)
right = np.maximum(dense_W[0] @ X.T + positive[:, None], 0)
show(**{"Z": Z, "sparse form, b > 0": sparse_form, "right": right})
wrong = sparse_form.to_dense(0.0) != right
assert np.isnan(Z.to_dense(np.nan))[wrong].all()
print(f"\n{wrong.sum()} of {wrong.size} entries differ, all of them where Z stores none")

# %% [markdown]
# The cure is to say what absence means before changing the semiring: fill $Z$ with the zeros of
# $S_1$. Then a sample of which nothing was left comes back to life at every such neuron, so there is
# less to skip. (The Graph Challenge defines its step on *stored* entries, with
# negative biases, so there both readings agree.)

# %%
full = gb.Matrix.from_scalar(0.0, SIZE, BATCH)
full(gb.binary.plus) << gb.semiring.plus_times(W[0] @ Y0)
Y1_positive = gb.semiring.max_plus(gb.Vector.from_dense(positive).diag() @ full).new()
Y1_positive << gb.binary.max(Y1_positive, 0.0)
check("b > 0, zeros filled in", Y1_positive, right)

# %% [markdown]
# ## The fast form: the bias is there already
#
# A GraphBLAS operation can accumulate: $C \mathrel{+}= A B$. Put the bias into a full matrix first,
# and $S_1$'s product adds to it in place. The $\otimes\, b$ of $S_2$ then costs nothing, any sign of
# $b$ is right, and $\oplus\, 0$ is a maximum over contiguous memory:
#
# ```python
# out[...] = b[:, None]                          # S2's (x) b, before the product
# out(plus) << plus_times(W @ Y)                 # S1, in place
# np.maximum(out, 0, out=out)                    # S2's (+) 0
# ```

# %%
def fast_layer(W, Y, b):
    """Y and the result are full GraphBLAS matrices by row."""
    prefilled = np.repeat(b[:, None], Y.ncols, axis=1).astype(Y.dtype.np_type)
    out = gb.Matrix.from_dense(prefilled)
    out(gb.binary.plus) << gb.semiring.plus_times(W @ Y)
    memory = out.ss.unpack("fullr")["values"]         # GraphBLAS' own memory, no copy
    np.maximum(memory, 0, out=memory)
    out.ss.pack_fullr(memory, take_ownership=True)
    return out


for sign, biases in (("b <= 0", dense_b), ("b > 0", [np.abs(b) + 0.25 for b in dense_b])):
    Y = gb.Matrix.from_dense(np.ascontiguousarray(X.T))
    for weight, b in zip(W, biases, strict=True):
        Y = fast_layer(weight, Y, b)
    check(f"fast form, {sign}", Y, numpy_network(X, dense_W, biases))

# %% [markdown]
# ## The same through `gbdnn.Network`
#
# The public interface takes samples in rows, as scikit-learn does, and turns them inside. All
# backends run the same layers; the network is float64 here, as numpy is above.

# %%
biases = [np.abs(b) + 0.25 if k == 1 else b for k, b in enumerate(dense_b)]  # one layer with b > 0
layers = []
for weight, b in zip(W, biases, strict=True):
    layers += [gbdnn.Linear(weight, b, dtype=np.float64), "relu"]
network = gbdnn.Network(layers)
print(network.summary(), end="\n\n")

expected = numpy_network(X, dense_W, biases).T
for backend in ("graphblas-reference", "graphblas", "fused", "dense"):
    check(f"predict(X, backend={backend!r})", network.predict(X, backend=backend), expected)

# %% [markdown]
# ## What the form costs
#
# The same three forms at a size where time counts: one layer of random weights, float32, non-zeros
# in every row, a batch that is full as activations are after a few layers. Times are medians over
# rounds on one thread, since the thread pools of several libraries in one process disturb each other;
# `benchmarks` measures with more care, one engine a process (notebook 2).

# %%
N, COLUMNS, PER_ROW, ROUNDS = (256, 64, 32, 5) if FAST else (1024, 512, 32, 15)
weight = gbdnn.topology.erdos_renyi(N, N, density=PER_ROW / N, rng=0)
bias = np.full(N, -0.1, np.float32)
X_full = np.random.default_rng(1).random((COLUMNS, N), dtype=np.float32) + np.float32(0.5)


def median_ms(call):
    call()
    seconds = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    low, middle, high = np.quantile(seconds, [0.25, 0.5, 0.75])
    return 1e3 * middle, 1e3 * (high - low)


gb.ss.config["nthreads"] = 1
W_gb = weight.to_graphblas()
D_gb = gb.Vector.from_dense(bias).diag()
Y_gb = gb.Matrix.from_dense(np.ascontiguousarray(X_full.T))
one_layer = gbdnn.Network([gbdnn.Linear(weight, bias), "relu"])
forms = {
    "paper's step, sparse Y": lambda: step(W_gb, Y_gb, D_gb),
    "bias first, accumulate": lambda: fast_layer(W_gb, Y_gb, bias),
}
forms |= {f"predict, {backend}": (lambda backend=backend: one_layer.predict(
    X_full, backend=backend, threads=1, check_finite=False))
    for backend in ("graphblas", "fused", "dense")}
milliseconds = {name: median_ms(call) for name, call in forms.items()}

exact = np.maximum(weight.to_dense().astype(float) @ X_full.T + bias[:, None].astype(float), 0)
terms = abs(weight.to_dense().astype(float)) @ abs(X_full.T) + 0.1
tolerance = (np.diff(weight.indptr).max() + 2) * np.finfo(np.float32).eps * terms
edges = weight.nnz * COLUMNS
for name, call in forms.items():
    result = call()
    result = result.to_dense(0) if isinstance(result, gb.Matrix) else result.T
    assert (abs(result - exact) <= tolerance).all(), name
    ms, spread = milliseconds[name]
    print(f"{name:24s} {ms:8.2f} ms (quartiles {spread:5.2f} ms apart) "
          f"{edges / ms / 1e6:6.2f} GEdge/s")

# %%
figure, ax = plt.subplots(figsize=(7, 2.8), layout="constrained")
colours = 2 * [OKABE_ITO["orange"]] + 3 * [OKABE_ITO["blue"]]
bars = ax.barh(list(milliseconds), [ms for ms, _ in milliseconds.values()], color=colours)
ax.bar_label(bars, [f"{ms:.3g} ms" for ms, _ in milliseconds.values()], padding=4)
ax.invert_yaxis()
ax.margins(x=0.15)
ax.set(xlabel="time of one layer (ms), less is better",
       title=f"{N} x {N}, about {PER_ROW} weights a row, batch {COLUMNS}, one thread")
plt.show()

# %% [markdown]
# All forms give the same numbers within rounding. The two upper bars are GraphBLAS calls on a
# neuron-major batch; the `predict` bars include turning samples into columns and back, which a
# deep network pays once. Which kernel GraphBLAS chose can be asked:

# %%
import sys

sys.path.insert(0, "..")  # where benchmarks is, a folder of the checkout
from benchmarks.burble import kernels_of

for name in ("paper's step, sparse Y", "bias first, accumulate"):
    print(f"{name:24s}", "; ".join(kernels_of(forms[name])))

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
# # Four bits
#
# An LSTM with weights and activations of four bits, after the abstracts of Fasoli et al. 2021
# ([arXiv:2108.12074](https://arxiv.org/abs/2108.12074)) and 2022
# ([arXiv:2206.07882](https://arxiv.org/abs/2206.07882)), with the quantizers as published in IBM's
# fms-model-optimizer, and the same with sparse weights. Their speech is not to be had; the data here
# are the digits that come with scikit-learn, read row by row: 8 time steps of 8 pixels.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import gbdnn
from gbdnn.machine import machine, versions
from gbdnn.models import lstm
from gbdnn.quantization import as_plan, quantizer

FAST = os.environ.get("GBDNN_NOTEBOOK_FAST") == "1"  # smaller sizes, for the tests
CELLS, EPOCHS = (16, 2) if FAST else (128, 40)
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"  # Okabe-Ito
plt.rcParams.update({"figure.dpi": 110, "font.size": 10, "axes.spines.top": False,
                     "axes.spines.right": False})

here = machine()
print(f"{here['processor']}, {here['cores']} cores ({', '.join(here['vectors'])})")
print(", ".join(f"{name} {number}" for name, number in versions().items()))

X, y = load_digits(return_X_y=True)
X = (X.reshape(-1, 8, 8) / 16).astype(np.float32)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=300, random_state=0)


def trained(density):
    """Return an LSTM trained in float32 with RigL where it is sparse."""
    layers = lstm([8, CELLS, 10], rows="last", density=density, rng=0).layers
    growth = {} if density == 1 else {"sparsifier": "rigl"}
    trainer = gbdnn.Trainer(epochs=EPOCHS, learning_rate=5e-3, schedule="cosine", clip_norm=5.0,
                            **growth)
    return trainer.fit(gbdnn.Network([*layers, "softmax"]), X_train, y_train).network


def accuracy(network):
    """Return the part of the test samples that are recognised."""
    return float((network.predict(X_test).argmax(axis=1) == y_test).mean())


floats = trained(1.0)
print(f"float32: {accuracy(floats):.3f}")

# %% [markdown]
# ## Where to clip
#
# A symmetric quantizer of b bits has the levels $s k$, $k = -n/2 \ldots n/2$, with
# $n = 2^b - 2$ and $s = 2a/n$; it rounds $x$ to $y = s\,\mathrm{round}(\mathrm{clip}(x, -a, a)/s)$.
# A small clip $a$ cuts off the tails, a large one makes steps wide. MAX takes the largest weight, SAWB
# a combination of $\sqrt{E[w^2]}$ and $E|w|$ that is right for many distributions, OCTAV iterates to
# the least squared error. Below, the recurrent weights of one gate (i, f, g, o are the four blocks of rows),
# since there is one clip for each gate and matrix.

# %%
gates = np.split(floats.layers[0].recurrent.to_dense(allow_dense=True), 4)
values = gates[2].ravel()  # g, the cell's input
NAMES = {"max": GREY, "sawb": BLUE, "octav": GREEN, "percentile": ORANGE}
clips = {}
for name in NAMES:
    low, high = quantizer(name).clip(values)
    clips[name] = max(high, -low)

figure, axes = plt.subplots(figsize=(7, 3.2))
axes.hist(values, bins=120, color="#BBBBBB")
for name, color in NAMES.items():
    for sign in (-1, 1):
        axes.axvline(sign * clips[name], color=color, label=name if sign == 1 else None)
axes.set(xlabel="recurrent weight of gate g", ylabel="weights", title="Clips of four quantizers, 4 bits")
axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

# %% [markdown]
# The squared error against the clip, with what the quantizers chose. The least error is wanted here,
# though it is not quite what training wants: after training with the rounding, a wider or a narrower
# clip can be made up for.

# %%
def error(values, clip, bits=4):
    """Return the squared error of rounding, over the squares of the values."""
    half = 2 ** (bits - 1) - 1
    step = clip / half
    rounded = step * np.rint(np.clip(values, -clip, clip) / step)
    return float(((rounded - values) ** 2).sum() / (values**2).sum())


grid = np.linspace(0.05, 1.05, 80) * clips["max"]
figure, axes = plt.subplots(figsize=(7, 3.2))
axes.semilogy(grid, [error(values, clip) for clip in grid], color="black")
for name, color in NAMES.items():
    axes.plot(clips[name], error(values, clips[name]), "o", color=color, label=name)
axes.set(xlabel="clip a", ylabel="relative squared error", title="Error against the clip, 4 bits")
axes.legend(frameon=False)
plt.show()
pd.DataFrame({"clip": clips, "error": {name: error(values, a) for name, a in clips.items()}}).round(4)

# %% [markdown]
# ## Plans
#
# A plan says which quantizer each tensor gets, by name. What follows is the plan of the 2022 paper as
# far as its abstract and the published code say it; what is ours is marked.

# %%
print(as_plan("fasoli2022", floats.named_layers).describe(floats))

# %% [markdown]
# ## Accuracy
#
# Rounding after training (the clips of activations come from training samples), and training while
# rounded: gradients pass straight through, the clips of PACT+ are learned. Each network below computes
# in whole numbers.

# %%
def rounded(network, plan, qat):
    """Return a network in whole numbers."""
    if not qat:
        return gbdnn.quantize(network, plan, X_train)
    trainer = gbdnn.Trainer(epochs=max(EPOCHS // 4, 1), learning_rate=1e-3, schedule="cosine",
                            clip_norm=5.0, quantization=plan)
    return trainer.fit(network, X_train, y_train).network


rows = []
for density in (1.0, 0.2, 0.1):
    start = floats if density == 1 else trained(density)
    made = {"float32": start}
    for plan, qat in (("int8", False), ("naive_int4", False), ("naive_int4", True),
                      ("fasoli2022", False), ("fasoli2022", True)):
        made[f"{plan}{', trained' if qat else ''}"] = rounded(start, plan, qat)
    for name, network in made.items():
        rows.append({"density": density, "network": name, "accuracy": accuracy(network),
                     "bytes": network.nbytes})
results = pd.DataFrame(rows)
results["times fewer bytes"] = results["bytes"].iloc[0] / results["bytes"]
results.round({"accuracy": 3, "times fewer bytes": 1})

# %%
figure, axes = plt.subplots(figsize=(7, 3.6))
for (name, group), marker in zip(results.groupby("network", sort=False), "osv^PD", strict=True):
    axes.semilogx(group["bytes"], group["accuracy"], marker, label=name, linestyle="none")
axes.set(xlabel="bytes of all parameters", ylabel="accuracy, 300 test samples",
         title="Accuracy against bytes: density 1, 0.2 and 0.1")
axes.legend(frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# One seed and 300 samples: differences of a point are noise. With three seeds,
# `gbdnn bench low-precision` has the same (docs/results.md). Naive rounding loses most where weights are
# sparse, since fewer terms average their errors out; training while rounded brings nearly all of it
# back.

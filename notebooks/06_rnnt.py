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
# # Recurrent neural network transducers
#
# A transducer (Graves 2012, [arXiv:1211.3711](https://arxiv.org/abs/1211.3711)) reads frames and writes
# labels. At each node $(t, u)$, $t$ frames read and $u$ labels written, it chooses between a blank, which
# leads to the next frame, and a label. Nobody says when a label is due: the loss sums over all ways.
# Here: the lattice, the loss, a training to zero errors, and two searches.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from gbdnn import Trainer
from gbdnn.decoding import Decoder
from gbdnn.decoding.batched import edit_distance
from gbdnn.losses import transducer_loss
from gbdnn.models import transducer
from gbdnn.training.transducer import fit_transducer

FAST = os.environ.get("GBDNN_NOTEBOOK_FAST") == "1"  # smaller sizes, for the tests
EPOCHS = 2 if FAST else 100
LABELS, FEATURES = 4, 6
plt.rcParams.update({"figure.dpi": 110, "font.size": 10, "axes.spines.top": False,
                     "axes.spines.right": False})


def spoken(count, seed, noise=0.2):
    """Return utterances: each label is a direction for two to four frames, then a gap."""
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(99).standard_normal((LABELS + 1, FEATURES))
    directions[0] = 0
    X, y = [], []
    for _ in range(count):
        said = rng.integers(1, LABELS + 1, size=rng.integers(2, 5))
        frames = np.concatenate([np.repeat(directions[[label, 0]], [rng.integers(2, 5), 1], axis=0)
                                 for label in said])
        X.append((frames + noise * rng.standard_normal(frames.shape)).astype(np.float32))
        y.append(said)
    return X, y


X, y = spoken(30, seed=0)
model = transducer("blstm 16", FEATURES, LABELS + 1, predictor="lstm 16", embedding=4, size=16)
print(model)
print(f"the first utterance: {len(X[0])} frames, labels {y[0].tolist()}")

# %% [markdown]
# ## The lattice and its loss
#
# $\alpha(t, u)$ is the logarithm of the probability of all ways from the beginning to a node,
# $\beta(t, u)$ that of all ways from it to the end:
#
# $$\alpha(t, u) = \log\left(e^{\alpha(t-1, u)}\, p(\varnothing \mid t-1, u) +
#   e^{\alpha(t, u-1)}\, p(y_u \mid t, u-1)\right)$$
#
# and the cost is $-\log P(y \mid x) = -\beta(0, 0)$. A few lines of numpy say the same as the compiled
# loss, which also has the gradient.

# %%
def log_probabilities(model, frames, labels):
    """Return log p(k | t, u) of all nodes, shape (T, U + 1, V)."""
    (h,) = model.encode([frames])
    (g,) = model.predictor.predict([np.r_[0, labels].astype(np.float32)[:, None]])
    T, U = len(h), len(g)
    return model.joint(np.repeat(h, U, axis=0), np.tile(g, (T, 1))).reshape(T, U, -1)


def lattice(log_p, labels):
    """Return alpha and beta, shape (T, U + 1)."""
    T, U = log_p.shape[0], len(labels)
    alpha, beta = np.full((T, U + 1), -np.inf), np.full((T, U + 1), -np.inf)
    alpha[0, 0], beta[-1, -1] = 0, log_p[-1, -1, 0]
    for t in range(T):
        for u in range(U + 1):
            if t:
                alpha[t, u] = np.logaddexp(alpha[t, u], alpha[t - 1, u] + log_p[t - 1, u, 0])
            if u:
                step = log_p[t, u - 1, labels[u - 1]]
                alpha[t, u] = np.logaddexp(alpha[t, u], alpha[t, u - 1] + step)
    for t in reversed(range(T)):
        for u in reversed(range(U + 1)):
            if t + 1 < T:
                beta[t, u] = np.logaddexp(beta[t, u], beta[t + 1, u] + log_p[t, u, 0])
            if u < U:
                beta[t, u] = np.logaddexp(beta[t, u], beta[t, u + 1] + log_p[t, u, labels[u]])
    return alpha, beta


log_p = log_probabilities(model, X[0], y[0])
alpha, beta = lattice(log_p, y[0])
(cost,), gradient = transducer_loss(log_p[None].astype(np.float64), y[0][None])
print(f"-log P: {-beta[0, 0]:.6f} in numpy, {cost:.6f} compiled; gradient {gradient.shape}")
assert abs(cost + beta[0, 0]) < 1e-6
print(f"the gradient of each node sums to {np.abs(gradient.sum(axis=-1)).max():.0e}")

# %% [markdown]
# ## Training to zero errors
#
# The score is 1 - label error rate of a greedy search.

# %%
trainer = Trainer(epochs=EPOCHS, batch_size=6, learning_rate=1e-2, schedule="cosine", clip_norm=5.0)
result = fit_transducer(trainer, model, X, y, validation=(X, y))
trained = result.network
history = pd.DataFrame([dict(record) for record in result.history.records])
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
left.semilogy(history["epoch"], history["validation_loss"], color="#0072B2")
left.set(xlabel="epoch", ylabel="nats an utterance")
right.plot(history["epoch"], 1 - history["validation_score"], color="#D55E00")
right.set(xlabel="epoch", ylabel="label error rate", ylim=(0, None))
plt.show()
errors = round((1 - history["validation_score"].iloc[-1]) * sum(map(len, y)))
print(f"{errors} of {sum(map(len, y))} labels wrong")
assert FAST or errors == 0

# %% [markdown]
# ## Where the probability goes
#
# $\gamma(t, u) = e^{\alpha + \beta} / P$ is the part of $P$ whose ways pass a node. Before training it is
# spread over the lattice; after, it follows one way. This encoder reads both ways, so that labels (up)
# may come before their frames.

# %%
figure, axes = plt.subplots(1, 2, figsize=(8, 2.6), sharey=True, layout="constrained")
for axis, (name, network) in zip(axes, (("before", model), ("after", trained)), strict=True):
    alpha, beta = lattice(log_probabilities(network, X[0], y[0]), y[0])
    picture = axis.imshow(np.exp(alpha + beta - beta[0, 0]).T, origin="lower", aspect="auto",
                          cmap="viridis", vmin=0, vmax=1)
    axis.set(title=f"{name} training", xlabel="frames read, t")
axes[0].set(ylabel="labels written, u")
figure.colorbar(picture, ax=axes, label="occupancy")
plt.show()

# %% [markdown]
# ## Greedy and beam search
#
# Greedy search takes the best step at each node; a beam keeps several label sequences and adds up the
# ways of each. On noisier utterances that training has not seen:

# %%
X_new, y_new = spoken(10 if FAST else 200, seed=1, noise=0.7)
encoded = trained.encode(X_new)
rows = []
for name, settings in {"greedy": {"search": "greedy"}, **{
        f"beam {beam}": {"search": "alsd", "beam": beam} for beam in (1, 2, 4, 8)}}.items():
    decoder = Decoder(trained, **settings)
    found = [decoder.decode(h)[0] for h in encoded]
    wrong = sum(edit_distance(said.tolist(), one.labels) for said, one in zip(y_new, found, strict=True))
    rows.append({"search": name, "label error rate": wrong / sum(map(len, y_new)),
                 "mean log P of what was found": np.mean([one.log_probability for one in found])})
pd.DataFrame(rows).round(4)

# %% [markdown]
# The list of one utterance. With fusion (`gbdnn.decoding.Fusion`) language models add to these scores;
# `docs/speech.md` has what they bring.

# %%
worst = min(range(len(encoded)), key=lambda k: Decoder(trained).decode(encoded[k])[0].log_probability)
print(f"said: {y_new[worst].tolist()}")
pd.DataFrame([{"labels": list(one.labels), "log P": round(one.log_probability, 3),
               "frames": list(one.frames)} for one in Decoder(trained, beam=4).decode(encoded[worst])])

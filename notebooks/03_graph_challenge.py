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
# # What the Graph Challenge networks do to their inputs
#
# The Sparse DNN Graph Challenge (Kepner et al. 2019,
# [arXiv:1909.05631](https://arxiv.org/abs/1909.05631)) counts *nominal* work: stored weights of all
# layers times inputs, whether or not anything is left of an input. This notebook looks at what is
# left, layer by layer, and at how much of the nominal work changes a result.
#
# Inputs are the 60,000 official ones if MNIST is in gbdnn's cache (`gbdnn challenge fetch`),
# otherwise the 1,797 handwritten digits that come with scikit-learn. The code is the same.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scipy.sparse as sp
from matplotlib.colors import PowerNorm

import gbdnn
from gbdnn.challenge import images, runner
from gbdnn.challenge.generate import Spec, layers
from gbdnn.machine import machine, versions

FAST = os.environ.get("GBDNN_NOTEBOOK_FAST") == "1"  # smaller sizes, for the tests
THREADS = machine()["cores"]
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"  # Okabe-Ito
plt.rcParams.update({"figure.dpi": 110, "font.size": 10, "axes.spines.top": False,
                     "axes.spines.right": False})

here = machine()
print(f"{here['processor']}, {here['cores']} cores ({', '.join(here['vectors'])}), "
      f"{THREADS} threads")
print(", ".join(f"{name} {number}" for name, number in versions().items()))

def table(frame, formats):
    """Return a DataFrame whose numbers are written as the formats say."""
    return frame.assign(**{name: frame[name].map(form.format) for name, form in formats.items()})


# %% [markdown]
# ## The weights
#
# The networks are RadiX-Nets. With $M = N/16$ and $G = \log_2 M$, layer $k = gG + i$ is
#
# $$W_k^T = \tfrac1{16}\, \Pi_g\, \bigl(1_{16\times16} \otimes (I_M + P^{2^i})\bigr),$$
#
# $P$ the cyclic shift, $\Pi_g$ a row permutation for each group of $G$ layers ($\Pi_0 = I$).
# gbdnn generates them; here they are rebuilt from the formula with scipy and compared.

# %%
def from_formula(nodes, shift, rows=None):
    """1/16 kron(ones(16, 16), I + P^shift), input rows permuted; shape (inputs, outputs)."""
    index = np.arange(nodes)
    small = sp.coo_array((np.ones(2 * nodes), (np.tile(index, 2),
                         np.concatenate([index, (index - shift) % nodes]))), shape=(nodes, nodes))
    base = sp.kron(np.ones((16, 16)), small, format="csr") / 16
    return base if rows is None else base[np.argsort(rows)]


facts = []
for neurons in (1024, 4096) if FAST else (1024, 4096, 16384, 65536):
    nodes = neurons // 16
    group = nodes.bit_length() - 1
    spec = Spec(neurons, 120)
    for k in (0, 1, group - 1, group, 2 * group + 1):
        weight = next(layers(spec, start=k, stop=k + 1)).to_scipy()
        facts.append({
            "neurons": neurons, "layer": k + 1, "group": k // group + 1,
            "edges into a neuron": set(np.diff(weight.indptr).tolist()),
            "edges out of a neuron": set(np.bincount(weight.indices, minlength=neurons).tolist()),
            "weights": set(weight.data.tolist()),
            "row sums": set(weight.sum(axis=1).tolist()),
            "neurons j, j + M alike": abs(weight[:nodes] - weight[nodes:2 * nodes]).nnz == 0,
        })
        if k < group:
            assert abs(weight.T - from_formula(nodes, 2**k)).nnz == 0
pd.DataFrame(facts).set_index(["neurons", "layer"])

# %%
spec = Spec(1024, 120)
M, G = 64, 6
first_permutation = np.argsort(np.random.RandomState(5489).random_sample(1024), kind="stable")
for k in range(G, 2 * G):  # group 2: the first one that is permuted
    weight = next(layers(spec, start=k, stop=k + 1)).to_scipy()
    assert abs(weight.T - from_formula(M, 2 ** (k - G), first_permutation)).nnz == 0

paths = sp.eye_array(1024, dtype=np.int64, format="csr")
for weight in layers(spec, stop=G):
    paths = (weight.to_scipy() * 16).astype(np.int64) @ paths
counts = set(np.unique(paths.toarray()).tolist())
print(f"Layers 1-{G} and {G + 1}-{2 * G} of 1024 neurons: as the formula says.")
print(f"Paths from any input to any neuron of layer {G}: {counts}, and 16^{G - 1} = {16**(G - 1):,}")

# %%
figure, axes = plt.subplots(1, 3, figsize=(10, 3.6), layout="constrained")
for ax, k in zip(axes, (0, 3, 6), strict=True):
    weight = next(layers(spec, start=k, stop=k + 1)).to_scipy()
    ax.spy(weight, markersize=0.35, color=BLUE, rasterized=True)
    ax.set(title=f"layer {k + 1}, group {k // G + 1}", xticks=[0, 512, 1023], yticks=[0, 512, 1023],
           xlabel="input neuron")
    ax.xaxis.set_ticks_position("bottom")
    ax.spines[:].set_visible(True)
axes[0].set_ylabel("output neuron")
figure.suptitle("W of three layers, 1024 neurons: 32,768 of 1,048,576 places are filled")
plt.show()

# %% [markdown]
# Every path count is the same, so after $G$ layers each neuron has heard of each pixel equally.
# All weights are positive and equal; what the network computes is decided by *how much* is there,
# and by the bias.
#
# ## The inputs
#
# Images are enlarged by Fourier interpolation, all of them side by side as one long signal, and cut
# to zeros and ones at half of the global maximum. Feature number = column · side + row.

# %%
inputs = runner.load_inputs(1024)
if FAST:
    inputs = runner.load_inputs(1024, limit=400)
bits = inputs.bits
ones = bits.nnz
print(f"{bits.count:,} inputs from {inputs.origin}: {ones:,} ones, "
      f"{ones / bits.count:.0f} of {bits.n_features} pixels on average")
if inputs.official:
    assert ones == 6_374_505
    print("These are the official inputs (6,374,505 ones).")

# %%
raw = images.official_images()
raw = images.embedded_images() if raw is None else raw
sides = (32, 64) if FAST or len(raw) > 10_000 else (32, 64, 128)  # 60,000 at 128 take a while
chosen = range(8)
rows = [("image", [raw[i] for i in chosen])]
for side in sides:
    large = bits if side == 32 else runner.load_inputs(side * side).bits
    pixels = np.unpackbits(large.bits[:, :1], axis=1).T  # the first eight inputs
    rows.append((f"N = {side * side:,}", [p.reshape(side, side).T for p in pixels]))

figure, axes = plt.subplots(len(rows), 8, figsize=(9, 1.25 * len(rows)), layout="constrained")
for (name, pictures), line in zip(rows, axes, strict=True):
    line[0].set_ylabel(name)
    for picture, ax in zip(pictures, line, strict=True):
        ax.imshow(picture, cmap="gray_r", interpolation="nearest")
        ax.set(xticks=[], yticks=[])
figure.suptitle("The first eight images and the inputs made of them")
plt.show()

# %% [markdown]
# ## Layer by layer
#
# One layer at a time through the public interface, dropping inputs of which nothing is left. For
# each layer: how many inputs live, what part of their activations is non-zero or at the cap of 32,
# and how many are 32 in *every* neuron.

# %%
SHOWN = 30  # layers; the rest repeats the last
network_1024 = list(layers(spec, stop=SHOWN))
counts = np.zeros(bits.count, np.int64)  # ones of each input
for line in bits.bits:
    counts += np.unpackbits(line)[:bits.count]
means = np.zeros((SHOWN + 1, bits.count))  # of each input's activations, after each layer
means[0] = counts / bits.n_features
census = []
Y, ids = bits, np.arange(bits.count)
for k, weight in enumerate(network_1024, 1):
    one_layer = gbdnn.Network([gbdnn.Linear(weight, spec.bias), gbdnn.ReLU(spec.cap)])
    Y = one_layer.predict(Y, backend="fused", threads=THREADS)  # (inputs, neurons)
    means[k, ids] = Y.mean(axis=1, dtype=float)
    free = ids[Y.max(axis=1) < spec.cap]
    assert (means[k, free] >= 2 * means[k - 1, free] + spec.bias - 1e-5).all()  # explained below
    alive = Y.any(axis=1)
    Y, ids = Y[alive], ids[alive]
    census.append({
        "layer": k, "live inputs": len(ids), "non-zero part": np.count_nonzero(Y) / Y.size,
        "at the cap": np.count_nonzero(spec.cap == Y) / Y.size,
        "mean activation": Y.mean(dtype=float),
        "settled inputs": int((spec.cap == Y).all(axis=1).sum()),
    })
survivors = ids
census = pd.DataFrame(census).set_index("layer")
settled_from = next((k for k, row in census.iterrows()
                     if row["settled inputs"] == row["live inputs"]), None)
print(f"After {SHOWN} layers {len(survivors):,} of {bits.count:,} inputs live; from layer "
      f"{settled_from} on all of these are {spec.cap:g} in every neuron.")
table(census.loc[[1, 2, 3, 4, 6, 8, 10, 12, 15, 20, 25, 30]], {
    "live inputs": "{:,.0f}", "settled inputs": "{:,.0f}", "non-zero part": "{:.3f}",
    "at the cap": "{:.3f}", "mean activation": "{:.2f}"})

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.8), layout="constrained")
left.axhline(bits.count, color=GREY, linestyle=":", linewidth=1)
left.text(SHOWN, bits.count, "all inputs", ha="right", va="bottom", color=GREY)
left.semilogy(census.index, census["live inputs"], "o-", color=BLUE, markersize=4, label="live")
settled = census["settled inputs"][census["settled inputs"] > 0]
left.semilogy(settled.index, settled, "s-", color=ORANGE, markersize=4,
              label="settled (32 in every neuron)")
left.set(xlabel="layer", ylabel="inputs", title="Inputs that are left")
left.legend(frameon=False, loc="lower right")
right.plot(census.index, census["non-zero part"], "o-", color=BLUE, markersize=4,
           label="non-zero")
right.plot(census.index, census["at the cap"], "s-", color=ORANGE, markersize=4,
           label="at the cap, 32")
right.set(xlabel="layer", ylabel="part of the live inputs' activations", ylim=(0, 1.03),
          title="How full the live inputs are")
right.legend(frameon=False, loc="center right")
plt.show()

# %% [markdown]
# The first layers empty the batch, the next ones fill what is left, then nothing changes any more.
# After the first layer density *falls*, as inputs thin out before they die, and then rises to 1 as only
# full ones remain.
#
# ## Why: one number decides
#
# All rows and columns of $W$ sum to $32/16 = 2$, so the mean over the neurons obeys, as
# $\max(\cdot, 0)$ only adds,
#
# $$\overline{Y_{k+1}} \;\ge\; 2\,\overline{Y_k} - |b|$$
#
# while no neuron is at the cap (asserted above at every layer). The distance of the mean from $|b|$ at
# least doubles once it is positive: $|b|$ is an *unstable* fixed point, $0$ and $32$ are the stable
# ones ($2 \cdot 32 - |b| > 32$). An input with more than $|b|$ of its pixels set therefore grows until
# neurons reach the cap; one below needs luck, that is, ones which meet in the same neurons.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.8), layout="constrained")
alive = np.zeros(bits.count, bool)
alive[survivors] = True
fraction = counts / bits.n_features
lines = np.where(means > 0, means, np.nan)[:SHOWN - 6]
rng = np.random.default_rng(0)
for group, number, colour, alpha in ((~alive, 300, GREY, 0.25), (alive, 60, BLUE, 0.6)):
    some = rng.permutation(np.flatnonzero(group))[:number]
    left.semilogy(lines[:, some], color=colour, linewidth=0.7, alpha=alpha)
left.axhline(-spec.bias, color=RED, linestyle="--", linewidth=1.5)
left.plot([], [], color=BLUE, label="survives")
left.plot([], [], color=GREY, label="dies (line ends)")
left.plot([], [], color=RED, linestyle="--", label=f"|b| = {-spec.bias:g}")
left.set(xlabel="layer", ylabel="mean activation of an input",
         title="300 inputs that die and 60 that survive")
left.legend(frameon=False, loc="lower right")

edges = np.linspace(0, fraction.max(), 41)
all_of, left_of = np.histogram(fraction, edges)[0], np.histogram(fraction[alive], edges)[0]
middle = (edges[1:] + edges[:-1]) / 2
enough = all_of >= 5
right.plot(middle[enough], left_of[enough] / all_of[enough], "o-", color=BLUE, markersize=4)
right.axvline(-spec.bias, color=RED, linestyle="--", linewidth=1.5)
right.text(-spec.bias, 0.5, f" |b| = {-spec.bias:g}", color=RED)
right.set(xlabel="part of the input's pixels that are set", ylabel="part of these inputs that survives",
          title="Survival against the number of ones", ylim=(-0.03, 1.05),
          xlim=(0, max(fraction.max(), -spec.bias * 1.25)))
plt.show()

above = fraction > -spec.bias
print(f"Inputs with more than {-spec.bias:g} of the pixels set: {above.sum():,}, "
      f"of which {int(alive[above].sum()):,} survive.")
print(f"Below: {int((~above).sum()):,}, of which {int(alive[~above].sum()):,} survive; the emptiest "
      f"survivor has {counts[alive].min()} ones, the fullest dead one {counts[~alive].max()}.")

# %% [markdown]
# The same as pictures: of the inputs that die the one with the most ones, of those that survive the one
# with the fewest. From layer 7 on the neurons are in permuted order.

# %%
died = np.flatnonzero(~alive)
latest = died[np.argmax(counts[died])]
pair = {"dies": int(latest), "survives": int(survivors[np.argmin(counts[survivors])])}
shown = [k for k in (0, 1, 2, 3, 4, 6, 9, 12, 20) if k <= SHOWN]
states = {name: [] for name in pair}
Y = np.unpackbits(bits.select(list(pair.values())).bits, axis=1)[:, :2].T.astype(np.float32)
for k in range(max(shown) + 1):
    if k in shown:
        for name, state in zip(pair, Y, strict=True):
            states[name].append(state.reshape(32, 32).T)
    one_layer = gbdnn.Network([gbdnn.Linear(network_1024[k], spec.bias), gbdnn.ReLU(spec.cap)])
    Y = one_layer.predict(Y, backend="fused")

figure, axes = plt.subplots(2, len(shown), figsize=(11, 3.1), layout="constrained")
for line, (name, pictures) in zip(axes, states.items(), strict=True):
    line[0].set_ylabel(f"input {pair[name] + 1:,}\n{counts[pair[name]]} ones\n{name}")
    for ax, k, picture in zip(line, shown, pictures, strict=True):
        drawn = ax.imshow(picture, cmap="cividis", norm=PowerNorm(0.35, 0, 32))
        ax.set(xticks=[], yticks=[])
        ax.set_title("input" if k == 0 else f"layer {k}", fontsize=9)
bar = figure.colorbar(drawn, ax=axes, shrink=0.8, ticks=[0, 0.1, 1, 4, 32], format="%g",
                     label="activation")
plt.show()

# %% [markdown]
# ## Nominal and effective work
#
# *Needed* is the least that any exact method which looks at whole inputs must compute: inputs that are
# neither dead nor settled before the layer. gbdnn's executor finds both by looking
# at tiles, after some layers only, so it computes a little more; `skip=False` computes everything.
# The truth is known for the 60,000 official inputs only. One run each; other programs on the machine, if the
# load below is above 0, cost rate.

# %%
needed = np.full(spec.layers, 0)
needed[0] = bits.count
unsettled = (census["live inputs"] - census["settled inputs"]).to_numpy()
needed[1:SHOWN + 1] = unsettled[:SHOWN]
if settled_from is None:
    needed[SHOWN + 1:] = unsettled[-1]
per_layer = spec.edges // spec.layers
print(f"load average of the last minute, before the runs: {os.getloadavg()[0]:.1f} "
      f"({here['cores']} cores)")
rows, categories = [], {}
for backend, skip in (("fused", True), ("graphblas", True), ("fused", False)):
    result = runner.run(spec, inputs, backend=backend, threads=THREADS, skip=skip)
    categories[backend, skip] = result.categories
    record = result.record
    rows.append({
        "backend": backend, "skipping": "exact" if skip else "nothing",
        "seconds": record["seconds"], "nominal GEdge": record["nominal_edges"] / 1e9,
        "effective GEdge": record["effective_edges"] / 1e9,
        "computed": record["effective_edges"] / record["nominal_edges"],
        "nominal GEdge/s": record["nominal_edges_per_second"] / 1e9,
        "effective GEdge/s": record["effective_edges_per_second"] / 1e9,
        "categories": record["categories"],
        "truth": {True: "passed", False: "FAILED", None: "not known"}[record["passed"]],
    })
    assert record["passed"] is not False
assert all(np.array_equal(found - 1, survivors) for found in categories.values())
print(f"All runs keep the same {len(survivors):,} inputs as the layer-by-layer computation above.")
print(f"Needed: {needed.sum() * per_layer / 1e9:,.2f} GEdge, "
      f"{needed.sum() / (spec.layers * bits.count):.2%} of the nominal "
      f"{spec.edges * bits.count / 1e9:,.1f}.")
table(pd.DataFrame(rows).set_index(["backend", "skipping"]), {
    "seconds": "{:.3f}", "nominal GEdge": "{:,.1f}", "effective GEdge": "{:,.2f}",
    "computed": "{:.2%}", "nominal GEdge/s": "{:,.0f}", "effective GEdge/s": "{:,.1f}",
    "categories": "{:,}"})

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.6), layout="constrained",
                                     width_ratios=[3, 2])
k = np.arange(1, spec.layers + 1)
left.fill_between(k, 0.5, bits.count, color=GREY, alpha=0.25, step="mid",
                  label="nominal: every input in every layer")
left.fill_between(k[needed > 0], 0.5, needed[needed > 0], color=BLUE, alpha=0.9, step="mid",
                  label="needed: neither dead nor settled")
left.set(yscale="log", xlabel="layer", ylabel="inputs to compute", xlim=(0.5, spec.layers),
         ylim=(0.5, bits.count * 60), title=f"1024 neurons, {spec.layers} layers")
left.legend(frameon=False, loc="upper right")
work = {"nominal": spec.edges * bits.count, "computed, exact skipping": None,
        "needed": needed.sum() * per_layer}
work["computed, exact skipping"] = rows[0]["effective GEdge"] * 1e9
bars = right.barh(list(work), [v / 1e9 for v in work.values()], color=[GREY, ORANGE, BLUE])
right.bar_label(bars, [f"{v / 1e9:,.3g}" for v in work.values()], padding=4)
right.set(xlabel="work (10⁹ edges)", title="Work of the whole run")
right.margins(x=0.2)
right.invert_yaxis()
plt.show()

# %% [markdown]
# Rates of the challenge are nominal edges over seconds. A method that stops computing dead and settled
# inputs is credited with work that nobody did, and the longer the network, the more of it: beyond the
# layer from which all inputs are settled, another thousand layers cost nothing. Both numbers belong
# side by side, as does the time without skipping, which is what a network with other weights would
# take.

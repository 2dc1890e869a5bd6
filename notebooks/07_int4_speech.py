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
# # Four bits for speech
#
# What `fasoli2022` does to a recogniser, gate by gate; what `gbdnn speech study` found, errors against
# bytes; and where the time would go on other hardware, which is simulated. The method is that of the
# abstracts of Fasoli et al. 2021 and 2022 with the quantizers as published in IBM's fms-model-optimizer;
# their speech is not to be had, ours is synthetic (`docs/speech.md`).

# %%
import json
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import gbdnn
from gbdnn import Trainer
from gbdnn.models import transducer
from gbdnn.quantization import quantizer
from gbdnn.quantization.transducer import quantize_transducer
from gbdnn.simulator import amdahl, compare, fraction_needed, ibm_like, load_machine
from gbdnn.training.transducer import fit_transducer

FAST = os.environ.get("GBDNN_NOTEBOOK_FAST") == "1"  # smaller sizes, for the tests
EPOCHS = 2 if FAST else 60
LABELS, FEATURES = 4, 6
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#666666"  # Okabe-Ito
plt.rcParams.update({"figure.dpi": 110, "font.size": 10, "axes.spines.top": False,
                     "axes.spines.right": False})

# %% [markdown]
# ## Weights and clips by gate
#
# A small transducer, trained on made-up frames as in the notebook before this one. An LSTM has a matrix
# of the inputs and a recurrent one, of four gates each; the plan has a clip for each of the eight.
# Grey is the clip of MAX for the whole matrix: where gates differ, it wastes levels.

# %%
rng = np.random.default_rng(0)
directions = rng.standard_normal((LABELS + 1, FEATURES))
directions[0] = 0
X, y = [], []
for _ in range(120):
    said = rng.integers(1, LABELS + 1, size=rng.integers(2, 6))
    frames = np.concatenate([np.repeat(directions[[label, 0]], [rng.integers(2, 5), 1], axis=0)
                             for label in said])
    X.append((frames + 0.3 * rng.standard_normal(frames.shape)).astype(np.float32))
    y.append(said)
model = transducer("lstm 48", FEATURES, LABELS + 1, predictor="lstm 32", embedding=4, size=32)
trainer = Trainer(epochs=EPOCHS, batch_size=8, learning_rate=5e-3, schedule="cosine", clip_norm=5.0)
floats = fit_transducer(trainer, model, X, y).network

figure, axes = plt.subplots(2, 4, figsize=(9, 4), sharex="row", layout="constrained")
layer = floats.encoder.layers[0]
for row, name in zip(axes, ("weight", "recurrent"), strict=True):
    whole = getattr(layer, name).plain()
    whole = whole.to_dense(allow_dense=True) if hasattr(whole, "to_dense") else whole.values
    for axis, gate, values in zip(row, "ifgo", np.split(np.asarray(whole), 4), strict=True):
        axis.hist(values.ravel(), bins=40, color="#BBBBBB")
        for kind, seen, color in (("sawb", values, BLUE), ("max", whole, GREY)):
            clip = quantizer(kind).clip(np.asarray(seen).ravel())[1]
            for sign in (-1, 1):
                axis.axvline(sign * clip, color=color, label=kind if sign == 1 else None)
        axis.set(title=f"{name}, gate {gate}", yticks=[])
axes[0, 0].legend(frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# The same model in four bits, without training; the study says what training adds.

# %%
rounded = quantize_transducer(floats, "fasoli2022", X, y)
print(f"{floats.file_nbytes:,} bytes in floats, {rounded.file_nbytes:,} in four bits, headers included")
print(rounded.encoder.layers[0].recurrent)

# %% [markdown]
# ## What the study found
#
# From the committed rows of `gbdnn speech study`: errors of words with 95 % intervals, all seeds together.

# %%
def repository():
    """Return the repository's folder: the parent of a folder of the package, or of this notebook."""
    return Path(gbdnn.__file__).resolve().parents[1]


study = json.loads((repository() / "docs" / "results" / "speech-study.json").read_text())
rows = pd.DataFrame(study["rows"])
sizes = rows[rows["kind"] == "bytes"].groupby("model", sort=False)["bytes"].first()
words = rows[(rows["kind"] == "words") & (rows["test"] == "matched") & (rows["fusion"] == "none")
             & (rows["beam"] == study["settings"]["beam"])]
found = pd.DataFrame({"bytes": sizes, "errors of words, percent": 100 * words.groupby("model")["rate"].mean(),
                      "seeds": words.groupby("model")["seed"].nunique()}).dropna()
found["times smaller"] = found["bytes"].loc["float32"] / found["bytes"]
found.sort_values("bytes", ascending=False).round(1)

# %%
figure, axis = plt.subplots(figsize=(7, 3.2))
for k, (name, row) in enumerate(found.sort_values("bytes").iterrows()):
    seeds = 100 * words[words["model"] == name]["rate"]
    axis.semilogx([row["bytes"]] * len(seeds), seeds, "osD^vP"[k % 6], label=name)
axis.set(xlabel="bytes of the file", ylabel="errors of words, percent",
         ylim=(0, 1.25 * found["errors of words, percent"].max()),
         title="Voices not trained on, a point for each seed")
axis.legend(frameon=False, loc="lower right")
plt.show()

# %% [markdown]
# ## Where the time would go, simulated
#
# Nothing below is measured. The IBM-like recogniser (57 M parameters, a language model of 84 M) on a
# RaPiD-like machine: only products gain from four bits, so the rest limits the speedup (Amdahl). The
# abstract's 3.4 times needs, at a gain of 8 in the products, the part of the time that is printed.

# %%
machine = load_machine("rapid")
print(f"needed for 3.4 times: {fraction_needed(3.4, 8):.1%} of the time at a gain of 8; "
      f"all of it 90 %: {amdahl(0.9, 8):.2f} times")
parts, speeds = [], []
for fusion in (False, True):
    result = compare(ibm_like(beam=16, fusion=fusion), machine, ["fp16", "int4"])
    name = "with fusion" if fusion else "no language model"
    for simulation in result.simulations:
        parts.append({"work": f"{name}, {simulation.format}",
                      **{part: 1e3 * s / result.base.work.seconds for part, s in simulation.by_part.items()}})
    speeds.append({"work": name, "times FP16, simulated": result.speedup(result.simulations[1]),
                   "RTF INT4, simulated": result.simulations[1].rtf})
table = pd.DataFrame(parts).set_index("work").fillna(0)
axis = table.plot.barh(stacked=True, figsize=(8, 3), colormap="tab10")
axis.set(xlabel="simulated ms for a second of audio, beam 16", ylabel="")
axis.invert_yaxis()
axis.legend(frameon=False, bbox_to_anchor=(1, 1), loc="upper left")
plt.show()
pd.DataFrame(speeds).round(3)

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
# # When does sparsity pay?
#
# A sparse layer does work in proportion to its non-zeros, a dense one to its places. Per unit of work a
# dense product is usually faster, and then there is a density at which the two cross. This notebook
# measures where, and for which engine there is none, with the folder `benchmarks`: one engine per process, pinned threads, warm-up, medians with
# their spread, and every result compared with float64 before its time counts. The figure of
# time against inverse sparsity is that of Kepner et al. 2017
# ([arXiv:1708.02937](https://arxiv.org/abs/1708.02937)), at sizes that take a minute or two.
#
# Every engine gets **one thread** here. On a machine that does something else besides, a thread pool
# whose other half waits for a core loses milliseconds, BLAS more than others; one thread compares
# the engines and not the schedulers. `gbdnn bench sweep` takes all cores.

# %%
import os
import sys
import tempfile

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import LogLocator

from gbdnn.machine import machine, versions

sys.path.insert(0, "..")  # where benchmarks is, a folder of the checkout
from benchmarks.figures import crossover
from benchmarks.roofline import probe_roofline
from benchmarks.store import load
from benchmarks.sweep import grid, sweep
from benchmarks.timing import Timing

FAST = os.environ.get("GBDNN_NOTEBOOK_FAST") == "1"  # smaller sizes, for the tests
THREADS = 1  # of every engine: see the text
STYLE = {"fused": ("#D55E00", "o"), "graphblas": ("#0072B2", "s"), "scipy": ("#E69F00", "<"),
         "dense": ("#000000", "X")}  # Okabe-Ito, and a marker each
plt.rcParams.update({"figure.dpi": 110, "font.size": 10, "axes.spines.top": False,
                     "axes.spines.right": False})
TIMING = Timing(rounds=5, spread=0.2, min_time=0.02, max_time=0.5) if FAST else Timing(
    rounds=11, spread=0.05, min_time=0.1, max_time=1.5)

here = machine()
print(f"{here['processor']}, {here['cores']} cores ({', '.join(here['vectors'])}), "
      f"{THREADS} thread")
print(", ".join(f"{name} {number}" for name, number in versions().items()))

# %% [markdown]
# ## The machine's limit
#
# One edge and one input are one multiply-add. The probe runs such multiply-adds with the vector
# instructions of gbdnn's fused kernel: operands in registers (`fma`), or one operand loaded from
# the first (`l1`) or second (`l2`) cache. A sparse product has to load a vector of $Y$ for every weight,
# so `l1` bounds it, unless rows with equal patterns share loads. A dense product keeps operands in
# registers; `fma` bounds it. At large batches `fma / l1` is the price of sparsity that no program avoids:
# 1 where a core loads a vector for every multiply-add, 2 where it makes two multiply-adds meanwhile.

# %%
def probe():
    """Best of three: whatever else runs can only lower the rates."""
    probes = [probe_roofline() for _ in range(3)]
    return {name: {"one core": max(getattr(p, f"{name}_one") for p in probes),
                   f"{probes[0].cores} cores": max(getattr(p, f"{name}_all") for p in probes)}
            for name in ("fma", "l1", "l2")}


limits = probe()
print(f"fma / l1 of one core: {limits['fma']['one core'] / limits['l1']['one core']:.2f}")
pd.DataFrame(limits).T.rename_axis("GEdge/s (1e9 multiply-adds/s)").round(1)

# %% [markdown]
# ## The sweep
#
# One layer $\max(WY + b, 0)$ with random non-zeros, float32, batch 64. `fused` and `graphblas` are
# gbdnn's sparse backends, `scipy` is `csr_array @ Y`, `dense` is BLAS on the full matrix. The dense engine
# is measured at one density only, as its time does not depend on it.
# At density 1 all rows have the same pattern, which the fused backend notices: it then loads $Y$ once for
# four rows, as a dense product does.

# %%
SIZES = (256,) if FAST else (512, 2048)
INVERSE = (1, 16) if FAST else (1, 2, 4, 8, 16, 64, 256, 1024)
ENGINES = ("fused", "graphblas") if FAST else ("fused", "graphblas", "scipy")
common = {"sizes": SIZES, "batches": (64,), "threads": THREADS, "ops": ("affine",),
          "timing": TIMING}
jobs = grid(ENGINES, densities=[1 / i for i in INVERSE], **common)
jobs += grid(["dense"], densities=[1 / 8], **common)
with tempfile.TemporaryDirectory() as folder:
    sweep(jobs, folder)
    frame = load(folder)
bad = frame[frame["status"] != "ok"]
assert bad.empty, bad[["engine", "size", "density", "reason"]]

print(f"{len(frame)} measurements; half width of the median's 95 % interval: "
      f"{frame['spread'].median():.1%} in the middle, {frame['spread'].max():.1%} at most; "
      f"other programs kept {frame['others_busy'].median():.1f} cores busy meanwhile; "
      f"largest error {frame['error_over_tolerance'].max():.2f} of what rounding allows")
frame["inverse"] = 1 / frame["density"]
sparse, dense = frame[frame["engine"] != "dense"], frame[frame["engine"] == "dense"]
dense = dense.set_index("size")
times = sparse.pivot(index=["size", "inverse"], columns="engine", values="seconds") * 1e3
times["dense"] = times.index.get_level_values("size").map(dense["seconds"]) * 1e3
times.columns.name = "median time, ms"
times.round(4)


# %%
def inverse_axis(ax, last=True):
    ax.set(xscale="log", yscale="log")
    ax.set_xticks(INVERSE, [f"{i:,}" for i in INVERSE])
    ax.yaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()
    if last:
        ax.set_xlabel("inverse sparsity, 1 / density")


figure, axes = plt.subplots(len(SIZES), 2, figsize=(10, 3.5 * len(SIZES) + 0.4), squeeze=False,
                            layout="constrained")
crossings = {}
for (left, right), size in zip(axes, SIZES, strict=True):
    for engine in ENGINES:
        part = sparse[(sparse["size"] == size) & (sparse["engine"] == engine)]
        part = part.sort_values("inverse")
        color, marker = STYLE[engine]
        left.plot(part["inverse"], part["seconds"] * 1e3, color=color, marker=marker, label=engine)
        left.fill_between(part["inverse"], part["seconds_p25"] * 1e3, part["seconds_p75"] * 1e3,
                          color=color, alpha=0.2, linewidth=0)
        right.plot(part["inverse"], part["weight_bytes"] / 2**20, color=color, marker=marker)
        at = crossover(part["inverse"], part["seconds"], dense.loc[size, "seconds"])
        crossings[size, engine] = np.nan if at is None else at
        if at is not None:
            left.plot(at, dense.loc[size, "seconds"] * 1e3, "o", color=color, markersize=13,
                      fillstyle="none", markeredgewidth=1.5)
    for ax, value in ((left, dense.loc[size, "seconds"] * 1e3),
                      (right, dense.loc[size, "weight_bytes"] / 2**20)):
        ax.axhline(value, color="black", linestyle="--", linewidth=1.5,
                   label="dense (BLAS)" if ax is left else None)
        inverse_axis(ax, last=size == SIZES[-1])
    left.set(ylabel="time (ms)", title=f"{size} x {size}, batch 64: time")
    right.set(ylabel="weights (MiB)", title=f"{size} x {size}: memory of the weights")
figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside upper center",
              ncols=len(ENGINES) + 1, frameon=False)
plt.show()

# %% [markdown]
# Rings mark the crossover, interpolated between the measured points; as a density it is the part of the
# weights that may stay before BLAS on the full matrix is faster. "Faster at all" stands where an engine
# has no crossover, as it is faster than BLAS at every density measured, the full matrix included. Of the
# full matrix that says little about sparse ones: there all rows have one pattern (see above).

# %%
def describe(size, engine):
    at, both = crossings[size, engine], times.loc[size][[engine, "dense"]]
    if not np.isnan(at):
        return f"{1 / at:.1%}"
    faster = both[engine] < both["dense"]
    return "faster at all" if faster.all() else "slower at all" if not faster.any() else "unclear"


pd.DataFrame([[describe(size, engine) for engine in ENGINES] for size in SIZES],
             pd.Index(SIZES, name="size"), pd.Index(ENGINES, name="density at the crossover"))

# %% [markdown]
# **Memory.** A dense float32 weight takes 4 bytes a place. CSR arrays take 8 bytes a non-zero (value and
# int32 index) and 4 a row, GraphBLAS 12 and 8, as its indices have 64 bits: memory breaks even near 50 %
# and 33 % density. Time breaks even elsewhere; a layer can be smaller and slower. The fused form has
# 16-bit indices where they suffice (6 bytes a non-zero), one list of them for all rows with the same
# pattern, and a record of 32 bytes a row. Of fuller matrices it keeps a second copy in blocks of
# columns, which is faster for wide batches, and takes more than the dense matrix above a third of
# density. Measured bytes per non-zero:

# %%
sparse = sparse.assign(per_weight=sparse["weight_bytes"] / sparse["nnz"])
per_weight = sparse.pivot(index=["size", "inverse"], columns="engine", values="per_weight")
per_weight.columns.name = "bytes per non-zero"
per_weight.loc[SIZES[-1]].round(1)

# %% [markdown]
# ## Against the limit
#
# The same measurements as rates. At low density a row has few non-zeros, and the fixed costs of a row and a
# call show; `graphblas` adds to its output in memory instead of in registers. The dotted lines are the
# limits of one core from above.

# %%
figure, axes = plt.subplots(1, len(SIZES), figsize=(5 * len(SIZES), 3.6), squeeze=False,
                            sharey=True, layout="constrained")
for ax, size in zip(axes[0], SIZES, strict=True):
    for engine in ENGINES:
        part = sparse[(sparse["size"] == size) & (sparse["engine"] == engine)]
        part = part.sort_values("inverse")
        color, marker = STYLE[engine]
        ax.plot(part["inverse"], part["gedge_per_s"], color=color, marker=marker, label=engine)
    rate = size * size * 64 / dense.loc[size, "seconds"] / 1e9
    ax.axhline(rate, color="black", linestyle="--", linewidth=1.5, label="dense (BLAS), all places")
    for name, side in (("fma", "bottom"), ("l1", "top"), ("l2", "bottom")):
        level = limits[name]["one core"]
        ax.axhline(level, color="#666666", linestyle=":", linewidth=1)
        ax.text(1, level, name, ha="right", va=side, color="#666666", fontsize=9,
                transform=ax.get_yaxis_transform())
    inverse_axis(ax)
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.set_title(f"{size} x {size}, batch 64")
axes[0][0].set_ylabel("GEdge/s (non-zeros x samples)")
figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside upper center",
              ncols=len(ENGINES) + 1, frameon=False)
plt.show()

best = frame.assign(rate=np.where(frame["engine"] == "dense", frame["size"] ** 2 * 64,
                                  frame["edges"]) / frame["seconds"] / 1e9)
best = best.loc[best.groupby(["size", "engine"])["rate"].idxmax()]
best = best.assign(density=best["density"].map("{:.3g}".format),
                   fma=100 * best["rate"] / limits["fma"]["one core"],
                   l1=100 * best["rate"] / limits["l1"]["one core"])
best[["size", "engine", "density", "rate", "fma", "l1", "kernels"]].rename(columns={
    "density": "best at density", "rate": "GEdge/s", "fma": "% of fma", "l1": "% of l1",
    "kernels": "kernel of GraphBLAS"}).round(1).set_index(["size", "engine"])

# %% [markdown]
# ## Where sparse loses
#
# Small layers, dense layers, single samples. Time of BLAS over time of the fused backend: above 1
# sparse wins. Measured is the bare layer, from buffer to buffer.

# %%
LOSING_SIZES, LOSING_BATCHES = ((64,), (1,)) if FAST else ((64, 256, 1024), (1, 64))
LOSING_DENSITIES = (0.5, 0.05) if FAST else (0.5, 0.25, 0.1, 0.02)
common = {"sizes": LOSING_SIZES, "batches": LOSING_BATCHES, "threads": THREADS, "ops": ("affine",),
          "timing": TIMING}
jobs = grid(["fused"], densities=LOSING_DENSITIES, **common)
jobs += grid(["dense"], densities=LOSING_DENSITIES[:1], **common)
with tempfile.TemporaryDirectory() as folder:
    sweep(jobs, folder)
    losing = load(folder)
assert (losing["status"] == "ok").all(), losing[["engine", "size", "status"]]
ours = losing[losing["engine"] == "fused"].pivot(
    index=["batch", "size"], columns="density", values="seconds")[list(LOSING_DENSITIES)]
blas = losing[losing["engine"] == "dense"].set_index(["batch", "size"])["seconds"]
ratio = ours.rdiv(blas, axis=0)
microseconds = (ours * 1e6).assign(dense=blas * 1e6).round(1)
microseconds.columns.name = "median time, µs; density:"
microseconds

# %%
figure, ax = plt.subplots(figsize=(6.5, 0.5 * len(ratio) + 1.6), layout="constrained")
shown = np.log2(ratio.to_numpy())
ax.imshow(shown, cmap="PuOr", vmin=-5, vmax=5, aspect="auto")
for (i, j), value in np.ndenumerate(ratio.to_numpy()):
    ax.text(j, i, f"{value:.2g}x", ha="center", va="center",
            color="white" if abs(shown[i, j]) > 3.2 else "black")
ax.set_xticks(range(ratio.shape[1]), [f"{d:.0%}" for d in ratio.columns])
ax.set_yticks(range(len(ratio)), [f"{size} x {size}, batch {batch}" for batch, size in ratio.index])
ax.tick_params(length=0)
ax.set(xlabel="density", title="fused against BLAS: below 1x (orange) sparse is slower")
plt.show()
lost = ratio.stack()
lost = lost[lost < 1]
print(f"Slower than BLAS in {len(lost)} of {ratio.size} cases:")
for (batch, size, density), value in lost.items():
    print(f"  {size} x {size}, batch {batch}, density {density:.0%}: {value:.2f} times as fast")

# %% [markdown]
# A layer of 64 x 64 for one sample is done by BLAS in the time of a function call: there is nothing to
# save. With one sample each weight is used once; BLAS streams its weights in full vectors, a sparse row
# fetches the activations one at a time, so the crossover lies at a lower density than with 64 samples,
# where a row's weight meets a vector of activations.
#
# ### Lower precision
#
# The dense line above is float32. Processors with AMX (Intel Xeon since 2023) multiply bfloat16
# matrices in tile registers: by Intel's figures 1,024 operations a cycle and core, against 64 in float32
# with AVX-512. Vector instructions for bfloat16 without tiles (`avx512_bf16`) make up
# to twice as many as in float32. Where bfloat16 is accurate enough, a dense layer of large batch is faster
# than the line by such a factor, and the crossover moves to lower densities. The cell below measures the
# bare product with torch where the machine has one of the two, and says so where it has not.

# %%
BF16 = """
import sys, time, torch
size, batch, threads = map(int, sys.argv[1:])
torch.set_num_threads(threads)
torch.manual_seed(0)
with torch.inference_mode():
    for kind in (torch.float32, torch.bfloat16):
        W, Y = torch.randn(size, size).to(kind), torch.randn(size, batch).to(kind)
        seconds = []
        for _ in range(60):
            begin = time.perf_counter()
            torch.mm(W, Y)
            seconds.append(time.perf_counter() - begin)
        print(sorted(seconds[10:])[25])
"""


def bf16_times(size, batch):
    """Return the median seconds of a torch product in float32 and bfloat16, in its own process."""
    import subprocess
    import sys

    words = [sys.executable, "-c", BF16, str(size), str(batch), str(THREADS)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return [float(line) for line in done.stdout.split()]


def installed(package):
    from importlib.util import find_spec

    return find_spec(package) is not None


def processor_flags():
    try:
        with open("/proc/cpuinfo") as file:
            return set(next((line for line in file if line.startswith("flags")), "").split())
    except OSError:
        return set()


has = [name for name in ("amx_bf16", "avx512_bf16") if name in processor_flags()]
if "amx_bf16" not in has:
    print("AMX is not measured: this machine has no amx_bf16. Where there is, sparse loses in more cases.")
if has and not installed("torch"):
    print(f"The machine has {' and '.join(has)}, but torch, which would use it, is not installed.")
elif has:
    print(f"Measured with {' and '.join(has)}, {THREADS} thread:")
    for size in SIZES:
        single, half = bf16_times(size, 64)
        print(f"{size} x {size}, batch 64: torch float32 {single * 1e3:.3f} ms, bfloat16 "
              f"{half * 1e3:.3f} ms ({single / half:.1f} times as fast)")
        for engine in ENGINES:
            part = sparse[(sparse["size"] == size) & (sparse["engine"] == engine)]
            part = part.sort_values("inverse")
            at = crossover(part["inverse"], part["seconds"], half)
            where = "not reached here" if at is None else f"density {1 / at:.2%}"
            print(f"  {engine}: crossover with bfloat16 at {where}")

# %% [markdown]
# The full sweep, with more sizes, batches and other libraries, is a command:
# `gbdnn bench sweep --preset kepner --peers torch-csr,scipy --out FOLDER`, then `gbdnn bench plot FOLDER`.

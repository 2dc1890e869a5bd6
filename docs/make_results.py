"""Write docs/results.md from what docs/measure.sh measured: python docs/make_results.py OUT."""

import shutil
import sys
from pathlib import Path

import pandas as pd

from benchmarks import load

DOCS = Path(__file__).parent
ENGINES = ["fused", "auto", "graphblas", "dense", "torch-csr", "torch-dense", "scipy"]
BEGIN, END = "<!-- docs/make_results.py writes {} from here -->", "<!-- to here -->"
HEAD = """# Results

Written by `docs/measure.sh MNIST.npz OUT` and `python docs/make_results.py OUT`, not by hand. The
machine is a hosted one whose two cores are shared with others: times wander by a third between
minutes, so read ratios within one table. Slower cells are left in.

"""


def main(out: Path) -> None:
    """Join the tables and copy the figures."""
    parts = [
        HEAD, challenge(out), networks(out), mlp(out / "mlp"), kepner(out / "kepner"),
        training(out / "training"), accuracy(out / "accuracy"),
    ]  # fmt: skip
    (DOCS / "results.md").write_text("\n".join(part for part in parts if part))
    into_readme("the challenge", (out / "challenge.md").read_text())
    into_readme("training", (out / "training" / "training.md").read_text())


def into_readme(name: str, table: str) -> None:
    """Put a table between its marks in README.md."""
    readme = DOCS.parent / "README.md"
    begin = BEGIN.format(name)
    before, found, rest = readme.read_text().partition(begin)
    assert found, f"no mark for {name} in README.md"
    readme.write_text(f"{before}{begin}\n{table}{END}{rest.partition(END)[2]}")


def challenge(out: Path) -> str:
    """Return the race on 1024 x 120."""
    text = (out / "challenge.md").read_text()
    return (
        "## The Graph Challenge, 1,024 neurons x 120 layers, against torch\n\n"
        "`gbdnn bench challenge`. torch-csr takes 1,024 columns at a time, bias first and bounds\n"
        "in place; with skipping it drops dead columns after each layer. graphblas-reference is\n"
        "the paper's pair of semirings on sparse Y, which drops dead inputs by itself.\n\n" + text
    )


def networks(out: Path) -> str:
    """Return the table of all networks."""
    text = (out / "networks" / "table.md").read_text()
    return (
        "## All twelve networks of the Graph Challenge, 60,000 inputs\n\n"
        "`gbdnn challenge table --backend fused`. Weights are generated, inputs made of MNIST.\n"
        "Inputs that are dead or at the fixed point are not computed any more, which is exact;\n"
        "the nominal rate counts them, the effective rate does not.\n\n" + text
    )


def mlp(folder: Path) -> str:
    """Return time by batch and density, engine by engine."""
    frame = load(folder)
    frame = frame[frame["status"] == "ok"]
    engines = [name for name in ENGINES if name in set(frame["engine"])]
    milliseconds = frame.assign(ms=frame["seconds"] * 1e3).pivot_table(
        index=["batch", "density"], columns="engine", values="ms"
    )[engines]
    milliseconds = milliseconds.sort_index(ascending=[True, False])
    rates = frame[frame["engine"] == "fused"].set_index(["batch", "density"])
    lines = [
        "| batch | density | " + " | ".join(engines) + " | fused GEdge/s | of the limit "
        "| torch-csr / fused | dense / fused | auto / best |",
        "|--:" * (len(engines) + 7) + "|",
    ]
    for (batch, density), row in milliseconds.iterrows():
        cells = [mark(frame, engine, batch, density, row[engine]) for engine in engines]
        rate = rates.loc[(batch, density)]
        own = row[[name for name in ("fused", "graphblas", "dense") if name in engines]].min()
        ratios = [
            row.get("torch-csr") / row["fused"],
            row["dense"] / row["fused"],
            row["auto"] / own,
        ]
        lines.append(
            f"| {batch} | {density:.0%} | " + " | ".join(cells)
            + f" | {rate['gedge_per_s']:.1f} | {limit(rate)} | "
            + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |"
        )  # fmt: skip
    images = copy(folder, "mlp", ("speedup", "rate", "roofline", "memory"))
    return (
        "## A network of 4 layers, 2,048 x 2,048, ReLU\n\n"
        "`gbdnn bench sweep --preset mlp`; milliseconds for the whole network, medians. `!`:\n"
        "other programs were busy meanwhile; `~`: the median is uncertain by more than 5 %.\n\n"
        + "\n".join(lines) + "\n\n" + origin(frame) + images
    )  # fmt: skip


def kepner(folder: Path) -> str:
    """Return the figure of Kepner et al. 2017."""
    if not (folder / "results.jsonl").exists():
        return ""
    frame = load(folder)
    skipped = frame[frame["status"] != "ok"]
    left_out = "; ".join(
        f"{row.engine} {row.size} at density {row.density:.2g} ({row.reason})"
        for row in skipped.itertuples()
    )
    return (
        "## Time against inverse sparsity (Kepner et al. 2017, arXiv:1708.02937)\n\n"
        "`gbdnn bench sweep --preset kepner`, one layer, batch 64.\n\n"
        + copy(folder, "kepner", ("time", "memory", "speedup"))
        + origin(frame[frame["status"] == "ok"])
        + (f"Left out: {left_out}.\n" if left_out else "")
    )


def training(folder: Path) -> str:
    """Return the race of training steps."""
    return (
        "## A training step against torch\n\n"
        "`gbdnn bench training`. fused steps are `Training.train_step` with all checks, what\n"
        "`Trainer.fit` runs. torch-dense keeps full weights; torch-csr lets autograd go through\n"
        "a CSR product; torch-csr-sampled calls `torch.sparse.sampled_addmm` for the weight\n"
        "gradient by hand, the fastest way that we found there.\n\n"
        + (folder / "training.md").read_text()
    )


def accuracy(folder: Path) -> str:
    """Return the study of accuracy against sparsity."""
    return (
        "## Accuracy against sparsity: MNIST\n\n"
        "`gbdnn bench accuracy`. All methods end at the same densities by layer (ERK). Accuracy\n"
        "is that of the last epoch on the 10,000 test images; nothing was selected on them. The\n"
        "peak memory is that of reading the images, which is more than any of these trainings.\n\n"
        + (folder / "accuracy.md").read_text()
        + "\n"
        + copy(folder, "accuracy", ("pareto",))
    )


def mark(frame: pd.DataFrame, engine: str, batch: int, density: float, ms: float) -> str:
    """Return a time, with what makes it doubtful."""
    here = frame[
        (frame["engine"] == engine) & (frame["batch"] == batch) & (frame["density"] == density)
    ]
    if here.empty:
        return ""
    row = here.iloc[0]
    return f"{ms:.3g}" + "!" * int(row["others_busy"] > 0.1) + "~" * int(row["spread"] > 0.05)


def limit(row: pd.Series) -> str:
    """Return the fraction of the roofline."""
    fraction = row.get("roofline_fraction")
    return "" if fraction is None or pd.isna(fraction) else f"{fraction:.0%}"


def origin(frame: pd.DataFrame) -> str:
    """Return machine, limits and versions of the first record."""
    row = frame.iloc[0]
    machine = f"{row['machine.processor']}, {row['machine.cores']} cores"
    packages = ", ".join(
        f"{key.partition('.')[2]} {row[key]}"
        for key in row.index
        if key.startswith("versions.") and isinstance(row[key], str)
    )
    limits = ", ".join(
        f"{key.partition('.')[2]} {row[key]:.0f}"
        for key in row.index
        if key.startswith("roofline.") and isinstance(row[key], float)
    )
    limits = f"; limits measured in the same run, in GFMA/s: {limits}" if limits else ""
    return f"{int(row['threads'])} threads; {machine}{limits}; {packages}.\n\n"


def copy(folder: Path, prefix: str, names: tuple[str, ...]) -> str:
    """Copy figures beside this file and return the links."""
    links = []
    (DOCS / "figures").mkdir(exist_ok=True)
    for name in names:
        for found in sorted(folder.glob(f"{name}*.png")):
            target = DOCS / "figures" / f"{prefix}-{found.name}"
            shutil.copy(found, target)
            links.append(f"![{prefix}: {found.stem}](figures/{target.name})\n")
    return "\n".join(links) + "\n"


if __name__ == "__main__":
    main(Path(sys.argv[1]))

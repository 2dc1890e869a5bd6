"""Write docs/results.md from what docs/measure.sh measured: python docs/make_results.py OUT."""

import shutil
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))

from benchmarks import store, tables  # noqa: E402
from benchmarks.rounds import grouped  # noqa: E402
from benchmarks.sweep_table import marks  # noqa: E402

ENGINES = ["fused", "auto", "graphblas", "dense", "torch-csr", "torch-dense", "scipy"]
BEGIN, END = "<!-- docs/make_results.py writes {} from here -->", "<!-- to here -->"
HEAD = """# Results

Written by `docs/measure.sh MNIST.npz OUT` and `python docs/make_results.py OUT`, not by hand. The
machine is a hosted one whose two cores are shared with others: times wander by a third between
minutes, so read ratios within one table. Slower cases are left in.

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
    """Return the comparison on 1024 x 120."""
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
    records = measured(folder)
    engines = [name for name in ENGINES if any(record["engine"] == name for record in records)]
    heads = ["batch", "density", *engines, "fused GEdge/s", "of the limit", "torch-csr / fused",
             "dense / fused", "auto / best"]  # fmt: skip
    rows = []
    groups = grouped(records, "batch", "density")
    for batch, density in sorted(groups, key=lambda key: (key[0], -key[1])):
        row = {record["engine"]: record for record in groups[batch, density]}
        ms = {name: 1e3 * record["seconds"] for name, record in row.items()}
        best = min(ms[name] for name in ("fused", "graphblas", "dense") if name in ms)
        fused, fraction = row["fused"], row["fused"]["roofline_fraction"]
        ratios = [(ms.get("torch-csr"), ms["fused"]), (ms.get("dense"), ms["fused"]),
                  (ms.get("auto"), best)]  # fmt: skip
        rows.append([
            str(batch), f"{density:.0%}",
            *(f"{ms[name]:.3g}{marks(row[name])}" if name in ms else "" for name in engines),
            f"{fused['gedge_per_s']:.1f}", "" if fraction is None else f"{fraction:.0%}",
            *("" if other is None else f"{other / own:.2f}" for other, own in ratios),
        ])  # fmt: skip
    images = copy(folder, "mlp", ("speedup", "rate", "roofline", "memory"))
    return (
        "## A network of 4 layers, 2,048 x 2,048, ReLU\n\n"
        "`gbdnn bench sweep --preset mlp`; milliseconds for the whole network, medians. `!`:\n"
        "other programs were busy meanwhile; `~`: the median is uncertain by more than 5 %.\n\n"
        f"{tables.markdown(heads, rows)}\n{origin(records[0])}{images}"
    )


def kepner(folder: Path) -> str:
    """Return the figure of Kepner et al. 2017."""
    records = measured(folder, everything=True)
    if not records:
        return ""
    left_out = "; ".join(
        f"{r['engine']} {r['size']} at density {r['density']:.2g} ({r['reason']})"
        for r in records if r["status"] != "ok"
    )  # fmt: skip
    return (
        "## Time against inverse sparsity (Kepner et al. 2017, arXiv:1708.02937)\n\n"
        "`gbdnn bench sweep --preset kepner`, one layer, batch 64.\n\n"
        + copy(folder, "kepner", ("time", "memory", "speedup"))
        + origin(next(r for r in records if r["status"] == "ok"))
        + (f"Left out: {left_out}.\n" if left_out else "")
    )


def training(folder: Path) -> str:
    """Return the comparison of training steps."""
    return (
        "## A training step against torch\n\n"
        "`gbdnn bench training`. fused steps are `Training.train_step` with all checks, what\n"
        "`Trainer.fit` runs. torch-dense keeps full weights; torch-csr lets autograd go through\n"
        "a CSR product; torch-csr-sampled calls `torch.sparse.sampled_addmm` for the weight\n"
        "gradient by hand, the fastest way that we found there.\n\n"
        + (folder / "training.md").read_text()
    )


def accuracy(folder: Path) -> str:
    """Return accuracy against sparsity."""
    return (
        "## Accuracy against sparsity: MNIST\n\n"
        "`gbdnn bench accuracy`. All methods end at the same densities by layer (ERK). Accuracy\n"
        "is that of the last epoch on the 10,000 test images; nothing was selected on them. The\n"
        "peak memory is that of reading the images, which is more than any of these trainings.\n\n"
        + (folder / "accuracy.md").read_text()
        + "\n"
        + copy(folder, "accuracy", ("pareto",))
    )


def measured(folder: Path, *, everything: bool = False) -> list[store.Record]:
    """Return the last record of each job, of those that were measured, or of all."""
    last = {record["key"]: record for record in store.read(folder).records}
    return [record for record in last.values() if everything or record["status"] == "ok"]


def origin(record: store.Record) -> str:
    """Return threads, machine, versions and the machine's limits, from a record of a sweep."""
    limits = ", ".join(
        f"{name} {rate:.0f}" for name, rate in (record["roofline"] or {}).items()
        if name.partition("_")[0] in ("fma", "l1", "l2")
    )  # fmt: skip
    limits = f" Limits measured in the same run, in GFMA/s: {limits}." if limits else ""
    return f"{tables.origin(record)}{limits}\n\n"


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

"""Write docs/results.md from what docs/measure.sh measured: python docs/make_results.py OUT."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))

from benchmarks import pruned, store  # noqa: E402
from benchmarks.process import Record  # noqa: E402
from benchmarks.rounds import doubtful, grouped  # noqa: E402
from benchmarks.sweep import BIASES  # noqa: E402
from gbdnn.challenge.table import markdown_table  # noqa: E402
from gbdnn.challenge.table import origin as where  # noqa: E402

ENGINES = ["fused", "auto", "graphblas", "dense", "torch-csr", "torch-dense", "scipy"]
BEGIN, END = "<!-- docs/make_results.py writes {} from here -->", "<!-- to here -->"
HEAD = """# Results

Written by `docs/measure.sh MNIST.npz OUT` and `python docs/make_results.py OUT`, not by hand. The
machines are hosted ones whose two cores are shared with others: times wander by a third between
minutes, and sections were measured on different days and machines, which they name, so read ratios
within one table. Slower cases are left in.

"""


def main(out: Path) -> None:
    """Join the tables and copy the figures; a section that was not measured stays as it is."""
    before = sections((DOCS / "results.md").read_text())
    writers: list[Callable[[Path], str]] = [
        targets, landing, challenge, networks, mlp, biases, small, kepner, training, sparse_linear,
        torch_model, quantized, kernels, recurrent, recogniser, low_precision, low_precision_rows,
        accuracy, estimators,
    ]  # fmt: skip
    found: dict[str, str] = {}
    for writer in writers:
        try:
            found |= sections(writer(out))
        except FileNotFoundError as error:
            print(f"{writer.__name__}: not measured, {error.filename}", file=sys.stderr)
    order, last = list(before), ""
    for title in found:  # a new section follows the one that is written before it
        if title not in order:
            order.insert(order.index(last) + 1 if last else len(order), title)
        last = title
    (DOCS / "results.md").write_text("\n".join([HEAD, *((before | found)[t] for t in order)]))


def sections(text: str) -> dict[str, str]:
    """Return the sections of a page by their titles."""
    parts = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    return {part.partition("\n")[0]: f"{part.strip()}\n" for part in parts if part[:3] == "## "}


def into_readme(name: str, table: str) -> None:
    """Put a table between its marks in README.md."""
    readme = DOCS.parent / "README.md"
    begin = BEGIN.format(name)
    before, found, rest = readme.read_text().partition(begin)
    assert found, f"no mark for {name} in README.md"
    readme.write_text(f"{before}{begin}\n{table}{END}{rest.partition(END)[2]}")


def landing(out: Path) -> str:
    """Return the pruned model's table; its sentence and figure go to the top of README.md."""
    folder = out / "pruned"
    sentence = pruned.sentence(json.loads((folder / "pruned.json").read_text()))
    figure = copy(folder, "model", ("pruned",))
    text = "`gbdnn bench pruned`, MNIST; [more](docs/results.md).\n\n"
    into_readme("a pruned model", f"{sentence}\n{text}{figure.replace('(', '(docs/')}")
    table = (folder / "pruned.md").read_text()
    return f"## A pruned model\n\n`gbdnn bench pruned`. {table}\n{figure}"


def challenge(out: Path) -> str:
    """Return the comparison on 1024 x 120."""
    text = (out / "challenge.md").read_text()
    into_readme("the challenge", text)
    return (
        "## The Graph Challenge, 1,024 neurons x 120 layers, against torch\n\n"
        "`gbdnn bench challenge`. torch-csr takes 1,024 columns at a time, bias first and bounds\n"
        "in place; with skipping it drops dead columns after each layer. graphblas-reference is\n"
        "the paper's pair of semirings on sparse Y, which drops dead inputs by itself. gbdnn's\n"
        "engines merge equal neurons first, which is exact and leaves a twentieth of the edges;\n"
        "torch computes the network as it is given.\n\n" + text
    )


def networks(out: Path) -> str:
    """Return the table of all networks."""
    text = (out / "networks" / "table.md").read_text()
    return (
        "## All twelve networks of the Graph Challenge, 60,000 inputs\n\n"
        "`gbdnn challenge table`. Weights are generated, inputs made of MNIST.\n"
        "Inputs that are dead or at the fixed point are not computed any more, which is exact;\n"
        "the nominal rate counts them, the effective rate does not.\n\n" + text
    )


def mlp(out: Path) -> str:
    """Return time by batch and density with the default call and the default bias 0."""
    folder = out / "mlp"
    records = measured(folder)
    engines = [name for name in ENGINES if any(r["engine"] == name for r in records)]
    heads = ["batch", "density", *engines, "fused GEdge/s", "of the limit", "torch-csr / fused",
             "dense / fused", "auto / best"]  # fmt: skip
    rows = []
    for batch, density, row in cases(records, "batch", "density"):
        ms = {name: 1e3 * record["seconds"] for name, record in row.items()}
        best = min(ms[name] for name in ("fused", "graphblas", "dense") if name in ms)
        fused, fraction = row["fused"], row["fused"]["roofline_fraction"]
        ratios = [(ms.get("torch-csr"), ms["fused"]), (ms.get("dense"), ms["fused"]),
                  (ms.get("auto"), best)]  # fmt: skip
        rows.append([
            str(batch), f"{density:.0%}", *(time(row.get(name)) for name in engines),
            f"{fused['gedge_per_s']:.1f}", "" if fraction is None else f"{fraction:.0%}",
            *("" if other is None else f"{other / own:.2f}" for other, own in ratios),
        ])  # fmt: skip
    images = copy(folder, "mlp", ("speedup", "rate", "roofline", "memory"))
    return (
        "## A network of 4 layers, 2,048 x 2,048, ReLU\n\n"
        "`gbdnn bench sweep --preset mlp`, the default call of `predict`, conversions included;\n"
        "milliseconds, medians. `!`: other programs were busy meanwhile; `~`: the median is\n"
        "uncertain by more than 5 %. Bias 0, the default:\n\n"
        f"{markdown_table(heads, rows)}\n{origin(records[0])}{images}"
    )


def biases(out: Path) -> str:
    """Return what looking for columns that have settled costs, or gains, by kind of bias."""
    records, rows = measured(out / "biases"), []
    for bias in BIASES:
        here = [r for r in records if r["bias"] == bias]
        looks = [r | {"engine": r["op"]} for r in here if r["engine"] == "fused"]
        others = [r for r in here if r["engine"] != "fused"]
        for batch, density, row in cases(looks + others, "batch", "density"):
            if {"predict", "no-skip"} <= row.keys():
                cost = row["predict"]["seconds"] / row["no-skip"]["seconds"]
                times = [time(row.get(name)) for name in ("predict", "no-skip", "torch-csr")]
                rows.append([bias, str(batch), f"{density:.0%}", *times, f"{cost:.2f}"])
    if not rows:
        return ""
    heads = ["bias", "batch", "density", "fused", "skip=False", "torch-csr", "skip / no skip"]
    return (
        "## The same with biases of every kind\n\n"
        "Columns that are dead are looked for where no bias is positive: the default call of\n"
        "`predict` against `skip=False`, milliseconds.\n\n"
        f"{markdown_table(heads, rows, left=1)}\n{origin(records[0])}"
    )


def small(out: Path) -> str:
    """Return small layers and single samples, where sparse weights need not pay."""
    records = measured(out / "small")
    engines = [name for name in ENGINES if any(r["engine"] == name for r in records)]
    rows = []
    for size, batch, density, row in cases(records, "size", "batch", "density"):
        dense = min(row[name]["seconds"] for name in ("dense", "torch-dense") if name in row)
        ratio = f"{dense / row['fused']['seconds']:.2f}"
        case = [f"{size} x {size}", str(batch), f"{density:.0%}"]
        rows.append([*case, *(time(row.get(name)) for name in engines), ratio])
    heads = ["layers", "batch", "density", *engines, "fastest dense / fused"]
    return (
        "## Small layers\n\n"
        "`gbdnn bench sweep --ops predict --bias zero`, 2 layers; milliseconds. Below 1 in the\n"
        "last column a dense layer is faster.\n\n"
        f"{markdown_table(heads, rows)}\n{origin(records[0])}"
    )


def cases(records: list[Record], *names: str) -> list[tuple]:
    """Return the values of the fields and the records by engine, denser ones first."""
    groups = grouped(records, *names)
    order = sorted(groups, key=lambda key: (*key[:-1], -key[-1]))
    return [(*key, {record["engine"]: record for record in groups[key]}) for key in order]


def time(record: Record | None) -> str:
    """Return milliseconds, with a mark where they are doubtful."""
    return "" if record is None else f"{1e3 * record['seconds']:.3g}{doubtful(record)}"


def kepner(out: Path) -> str:
    """Return the figure of Kepner et al. 2017."""
    folder = out / "kepner"
    records = measured(folder, everything=True)
    left_out = "; ".join(
        f"{r['engine']} {r['size']} at density {r['density']:.2g} ({r['reason']})"
        for r in records if r["status"] != "ok"
    )  # fmt: skip
    return (
        "## Time against inverse sparsity (Kepner et al. 2017, arXiv:1708.02937)\n\n"
        "`gbdnn bench sweep --preset kepner`, one layer, batch 64. Crosses: other programs were\n"
        "busy, or the median is uncertain; two threads of a library that wait for each other then\n"
        "lose milliseconds a call.\n\n"
        + copy(folder, "kepner", ("time", "memory", "speedup"))
        + origin(next(r for r in records if r["status"] == "ok"))
        + (f"Left out: {left_out}.\n" if left_out else "")
    )


def quantized(out: Path) -> str:
    """Return the comparison of whole numbers with float32."""
    text = (out / "quantized" / "quantized.md").read_text()
    return (
        "## In whole numbers\n\n"
        "`gbdnn bench quantized --threads 1`. Asked is what 8 bits should reach against float32;\n"
        "dense engines of other libraries have the same network with all its zeros.\n\n" + text
    )


def kernels(out: Path) -> str:
    """Return the comparison of kernels with those in C++."""
    text = (out / "kernels" / "kernels.md").read_text()
    return "## Kernels beside C++\n\n`gbdnn bench kernels`, g++ -O3.\n\n" + text


def recurrent(out: Path) -> str:
    """Return the comparison of LSTM and GRU with those of torch and onnxruntime."""
    text = (out / "lstm" / "lstm.md").read_text()
    return (
        "## LSTM and GRU against torch and onnxruntime\n\n"
        "`gbdnn bench lstm`. onnx-int8 is `DynamicQuantizeLSTM`, made by onnxruntime's\n"
        '`quantize_dynamic`; int8 is `gbdnn.quantize(network, "int8", X)`.\n'
        "Where the two values lie far apart other programs were busy, which two threads of torch\n"
        "suffer from most: there compare the smaller ones.\n\n" + text
    )


def recogniser(out: Path) -> str:
    """Return the encoder of a recogniser beside its peers."""
    text = (out / "recogniser" / "recogniser.md").read_text()
    title = "## A recogniser's encoder against torch and onnxruntime"
    return f"{title}\n\n`gbdnn bench recogniser`.\n\n{text}"


def low_precision(out: Path) -> str:
    """Return accuracy and bytes in float, INT8 and INT4, on scikit-learn's digits."""
    text = (out / "low-precision" / "low_precision.md").read_text()
    return f"## Accuracy in low precision\n\n`gbdnn bench low-precision`.\n\n{text}"


def torch_model(out: Path) -> str:
    """Return a pruned model of torch before and after."""
    table = (out / "torch-model" / "torch_model.md").read_text()
    return f"## A pruned model of torch, before and after\n\n`gbdnn bench torch-model`.\n\n{table}"


def sparse_linear(out: Path) -> str:
    """Return the comparison of `gbdnn.torch.SparseLinear` with torch's own layers."""
    table = (out / "sparse-linear" / "training.md").read_text()
    return (
        "## SparseLinear inside torch\n\n"
        "`gbdnn bench training --engines torch-gbdnn,torch-dense,torch-csr,torch-csr-sampled`.\n"
        "torch-gbdnn is `gbdnn.torch.SparseLinear` under torch's autograd and Adam; the other\n"
        f"engines as above.\n\n{table}"
    )


def low_precision_rows(out: Path) -> str:
    """Return the same on MNIST, 28 rows of 28 pixels."""
    text = (out / "low-precision-mnist" / "low_precision.md").read_text()
    return (
        "## Accuracy in low precision: MNIST by rows\n\n"
        f"`gbdnn bench low-precision --images`: 28 time steps of 28 pixels.\n\n{text}"
    )


def training(out: Path) -> str:
    """Return the comparison of training steps."""
    table = (out / "training" / "training.md").read_text()
    into_readme("training", table)
    return (
        "## A training step against torch\n\n"
        "`gbdnn bench training`. fused steps are `Training.train_step` with all checks, what\n"
        "`Trainer.fit` runs. torch-dense keeps full weights; torch-csr lets autograd go through\n"
        "a CSR product; torch-csr-sampled calls `torch.sparse.sampled_addmm` for the weight\n"
        "gradient by hand, the fastest way that we found there.\n\n" + table
    )


def accuracy(out: Path) -> str:
    """Return accuracy against sparsity."""
    folder = out / "accuracy"
    return (
        "## Accuracy against sparsity: MNIST\n\n"
        "`gbdnn bench accuracy`. All methods end at the same densities by layer (ERK). Accuracy\n"
        "is that of the last epoch on the 10,000 test images; nothing was selected on them. The\n"
        "peak memory is that of reading the images, which is more than any of these trainings.\n\n"
        + (folder / "accuracy.md").read_text()
        + "\n"
        + copy(folder, "accuracy", ("pareto",))
    )


def estimators(out: Path) -> str:
    """Return the estimators beside scikit-learn's."""
    text = (out / "estimators" / "estimators.md").read_text()
    return f"## The estimators as they come\n\n`gbdnn bench estimators`.\n\n{text}"


TARGETS = {
    "challenge 1024 x 120, with skipping": 1 / 2.5,
    "challenge 4096 x 120, with skipping": 1 / 6,
    "challenge 16384 x 120, with skipping": 1 / 8,
}
"""What the times of `benchmarks/compare.py` should be, new over old, where that is not 1.03."""


def targets(out: Path) -> str:
    """Return the version before the layers knew themselves against this one."""
    rows = []
    for case, pairs in json.loads((out / "old-new.json").read_text()).items():
        old, new = zip(*pairs, strict=True)
        ratios = [after / before for before, after in pairs]
        target = TARGETS.get(case, 1.03)
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        met = (
            "yes"
            if median(ratios) <= target
            else "in some rounds"
            if min(ratios) <= target
            else "no"
        )
        rows.append([case, f"{target:.2f}", f"{1e3 * median(old):.3g}", f"{1e3 * median(new):.3g}",
                     f"{median(ratios):.2f}", spread, met])  # fmt: skip
    heads = ["case", "new / old, at most", "old ms", "new ms", "new / old", "rounds", "met"]
    where = (out / "old-new.md").read_text().strip().splitlines()[-1]
    return (
        "## This version against 17ce66e\n\n"
        "`python benchmarks/compare.py OLD NEW`: both in turn, a process each, the default calls;\n"
        "medians, and the median of the ratios.\n\n"
        f"{markdown_table(heads, rows, left=1)}\n{where}\n"
    )


def measured(folder: Path, *, everything: bool = False) -> list[Record]:
    """Return the last record of each job, of those that were measured, or of all."""
    last = {record["key"]: record for record in store.read(folder).records}
    found = [record for record in last.values() if everything or record["status"] == "ok"]
    if not found:
        raise FileNotFoundError(2, "no measurements", str(folder))
    return found


def origin(record: Record) -> str:
    """Return threads, machine, versions and the machine's limits, from a record of a sweep."""
    limits = ", ".join(
        f"{name} {rate:.0f}" for name, rate in (record["roofline"] or {}).items()
        if name.partition("_")[0] in ("fma", "l1", "l2")
    )  # fmt: skip
    limits = f" Limits measured in the same run, in GFMA/s: {limits}." if limits else ""
    return f"{where(record)}{limits}\n\n"


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

"""Two checkouts against each other: ``python benchmarks/compare.py OLD NEW [--rounds 7]``.

The same cases run in processes of their own, old and new in turn, with nothing but names that every
version has. Printed are medians and the median of the ratios round by round, which a machine that
drifts changes least.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any


def challenge(skip: bool, neurons: int = 1024, repeats: int = 4) -> float:
    """Return the seconds of inference of 120 layers on the embedded digits, many times over."""
    import numpy as np

    from gbdnn.challenge import runner
    from gbdnn.challenge.generate import Spec
    from gbdnn.challenge.images import InputBits

    inputs = runner.load_inputs(neurons)
    bits = np.tile(inputs.bits.bits[:, :224], 30)  # about as many inputs as in the contest
    many = runner.ChallengeInputs(InputBits(bits, 8 * bits.shape[1]), "digits", False)
    options = {"backend": "fused", "skip": skip}
    spec = Spec(neurons, 120)
    times = [runner.run(spec, many, **options).record["seconds"] for _ in range(repeats)]
    return median(times[1:])


def layers(widths: tuple[int, ...], density: float, bias: float = 0.0) -> list[Any]:
    """Return layers with ReLU after each."""
    import numpy as np

    import gbdnn
    from gbdnn.topology import erdos_renyi

    made: list[Any] = []
    for k, (columns, rows) in enumerate(pairwise(widths)):
        weight = erdos_renyi(rows, columns, density=density, rng=k, values="he")
        made += [gbdnn.Linear(weight, np.full(rows, bias)), "relu"]
    return made


def predict(batch: int, density: float, bias: float = 0.3) -> float:
    """Return the seconds of a call of `predict`: 4 layers of 2048 x 2048."""
    import numpy as np

    import gbdnn

    network = gbdnn.Network(layers((2048,) * 5, density, bias))
    X = np.random.default_rng(0).standard_normal((batch, 2048), np.float32)
    for _ in range(3):
        network.predict(X)
    times, end = [], time.perf_counter() + 1.5
    while time.perf_counter() < end or len(times) < 5:
        begin = time.perf_counter()
        network.predict(X)
        times.append(time.perf_counter() - begin)
    return median(times)


def wide() -> float:
    """Return the seconds of a call of `predict`: 1000 documents of 40 words out of 2^18."""
    import numpy as np
    import scipy.sparse as sp

    import gbdnn

    rng = np.random.default_rng(0)
    weight = sp.random_array((64, 1 << 18), density=0.01, rng=rng, dtype=np.float32, format="csr")
    X = sp.random_array((1000, 1 << 18), density=40 / (1 << 18), rng=rng, format="csr")
    network = gbdnn.Network([gbdnn.Linear(weight), "relu"])
    network.predict(X)
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        network.predict(X)
        times.append(time.perf_counter() - begin)
    return median(times)


def training(density: float) -> float:
    """Return the seconds of a step: 1024-4096-4096-10, batch 256, Adam."""
    import numpy as np

    import gbdnn

    network = gbdnn.Network([*layers((1024, 4096, 4096, 10), density)[:-1], "softmax"])
    rng = np.random.default_rng(0)
    X, y = rng.random((2560, 1024), np.float32), rng.integers(10, size=2560)
    times: list[float] = []
    stamp = [lambda event: times.append(time.perf_counter())]
    gbdnn.Trainer(epochs=3, batch_size=256, callbacks=stamp).fit(network, X, y)
    return median(b - a for a, b in pairwise(times[3:]))


CASES: dict[str, Callable[[], float]] = {
    "challenge 1024 x 120, without skipping": partial(challenge, False),
    "challenge 1024 x 120, with skipping": partial(challenge, True),
    "challenge 4096 x 120, with skipping": partial(challenge, True, 4096),
    "challenge 16384 x 120, with skipping": partial(challenge, True, 16384, 2),
    "predict 1000 documents, 2^18 features": wide,
    **{
        f"predict 4 x 2048, batch {batch}, {density:.0%}{name}": partial(
            predict, batch, density, bias
        )
        for name, bias in (("", 0.3), (", bias 0", 0.0), (", bias negative", -0.05))
        for batch in (1, 16, 64, 65, 256)
        for density in (0.1, 0.01)
    },
    **{
        f"training step, {1 - density:.0%} sparse": partial(training, density)
        for density in (0.2, 0.1, 0.02)
    },
}


def measured(checkout: Path, case: str) -> float:
    """Return the seconds of a case in a process that imports gbdnn from a checkout."""
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    command = [sys.executable, str(Path(__file__).resolve()), "--case", case]
    done = subprocess.run(
        command, env=environment, cwd=checkout, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{checkout}: {case}\n{done.stderr}")
    return float(done.stdout.splitlines()[-1])


def _origin() -> str:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from gbdnn.challenge.table import origin
    from gbdnn.machine import machine, versions

    return origin({"machine": machine(), "versions": versions(), "threads": 2})


def main() -> None:
    """Compare, or run one case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkouts", nargs="*", type=Path, metavar="OLD NEW")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="Cases whose name matches this expression.")
    parser.add_argument("--out", type=Path, help="Folder for old-new.json and old-new.md.")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        print(CASES[given.case]())
        return
    if len(given.checkouts) != 2:
        parser.error("two folders are needed: the old and the new checkout")
    old, new = (folder.resolve() for folder in given.checkouts)
    lines = ["| case | old ms | new ms | new / old (min to max) |", "|---|--:|--:|--:|"]
    print(*lines, sep="\n")
    records: dict[str, list[tuple[float, float]]] = {}
    for case in [name for name in CASES if re.search(given.only, name)]:
        pairs = []
        for number in range(given.rounds):
            order = (old, new) if number % 2 == 0 else (new, old)
            found = {folder: measured(folder, case) for folder in order}
            pairs.append((found[old], found[new]))
        ratios = [after / before for before, after in pairs]
        before, after = (f"{1e3 * median(side):.3f}" for side in zip(*pairs, strict=True))
        spread = f"{median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        lines.append(f"| {case} | {before} | {after} | {spread} |")
        print(lines[-1], flush=True)
        records[case] = pairs
        if given.out:
            given.out.mkdir(parents=True, exist_ok=True)
            (given.out / "old-new.json").write_text(json.dumps(records, indent=1))
            (given.out / "old-new.md").write_text("\n".join(lines) + f"\n\n{_origin()}\n")


if __name__ == "__main__":
    main()

"""Two checkouts against each other: ``python benchmarks/compare.py OLD NEW [--rounds 7]``.

The same cases run in processes of their own, old and new in turn, with nothing but names that every
version has. Printed are medians and the median of the ratios round by round, which a machine that
drifts changes least.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any


def challenge(skip: bool) -> float:
    """Return the seconds of inference of 1024 x 120 on the embedded digits, many times over."""
    import numpy as np

    from gbdnn.challenge import runner
    from gbdnn.challenge.generate import Spec
    from gbdnn.challenge.images import InputBits

    inputs = runner.load_inputs(1024)
    bits = np.tile(inputs.bits.bits[:, :224], 30)  # about as many inputs as in the contest
    many = runner.ChallengeInputs(InputBits(bits, 8 * bits.shape[1]), "digits", False)
    spec = Spec(1024, 120)
    runner.run(spec, many, backend="fused", skip=skip)
    times = [runner.run(spec, many, backend="fused", skip=skip).record["seconds"] for _ in range(3)]
    return median(times)


def predict(batch: int, density: float, bias: float = 0.3) -> float:
    """Return the seconds of a call of `predict`: 4 layers of 2048 x 2048."""
    import numpy as np

    import gbdnn
    from gbdnn.topology import erdos_renyi

    layers: list[Any] = []
    for k in range(4):
        weight = erdos_renyi(2048, 2048, density=density, rng=k, values="he")
        layers += [gbdnn.Linear(weight, np.full(2048, bias)), "relu"]
    network = gbdnn.Network(layers)
    X = np.random.default_rng(0).standard_normal((batch, 2048), np.float32)
    for _ in range(3):
        network.predict(X)
    times, end = [], time.perf_counter() + 1.5
    while time.perf_counter() < end or len(times) < 5:
        begin = time.perf_counter()
        network.predict(X)
        times.append(time.perf_counter() - begin)
    return median(times)


def training(density: float) -> float:
    """Return the seconds of a step: 1024-4096-4096-10, batch 256, Adam."""
    import numpy as np

    import gbdnn
    from gbdnn.topology import erdos_renyi

    widths = (1024, 4096, 4096, 10)
    layers: list[Any] = []
    for k in range(3):
        weight = erdos_renyi(widths[k + 1], widths[k], density=density, rng=k, values="he")
        layers += [gbdnn.Linear(weight), "relu"]
    network = gbdnn.Network([*layers[:-1], "softmax"])
    rng = np.random.default_rng(0)
    X, y = rng.random((2560, 1024), np.float32), rng.integers(10, size=2560)
    times: list[float] = []

    def stamp(event: Any) -> None:
        times.append(time.perf_counter())

    gbdnn.Trainer(epochs=3, batch_size=256, callbacks=[stamp]).fit(network, X, y)
    return median(b - a for a, b in pairwise(times[3:]))


CASES: dict[str, Any] = {
    "challenge 1024 x 120, without skipping": lambda: challenge(False),
    "challenge 1024 x 120, with skipping": lambda: challenge(True),
    **{
        f"predict 4 x 2048, batch {batch}, {density:.0%}": (
            lambda batch=batch, density=density: predict(batch, density)
        )
        for batch in (1, 16, 64, 256)
        for density in (0.1, 0.01)
    },
    "predict 4 x 2048, batch 64, 5%, bias 0": lambda: predict(64, 0.05, 0.0),
    **{
        f"training step, {1 - density:.0%} sparse": lambda density=density: training(density)
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
    return float(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Compare, or run one case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkouts", nargs="*", type=Path, metavar="OLD NEW")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="Cases whose name contains this.")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        print(json.dumps(CASES[given.case]()))
        return
    if len(given.checkouts) != 2:
        parser.error("two folders are needed: the old and the new checkout")
    old, new = (folder.resolve() for folder in given.checkouts)
    print("| case | old ms | new ms | new / old (min to max) |\n|---|--:|--:|--:|")
    for case in [name for name in CASES if given.only in name]:
        pairs = []
        for number in range(given.rounds):
            order = (old, new) if number % 2 == 0 else (new, old)
            found = {folder: measured(folder, case) for folder in order}
            pairs.append((found[old], found[new]))
        ratios = sorted(after / before for before, after in pairs)
        before, after = (1e3 * median(side) for side in zip(*pairs, strict=True))
        spread = f"{ratios[0]:.3f} to {ratios[-1]:.3f}"
        ratio = f"{median(ratios):.3f} ({spread})"
        print(f"| {case} | {before:.3f} | {after:.3f} | {ratio} |", flush=True)


if __name__ == "__main__":
    main()

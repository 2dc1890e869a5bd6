"""The claims of Fasoli et al. 2021 and 2022, the rules fixed before, and what rows say of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gbdnn.files.rows import Record
from gbdnn.speech.scoring import KINDS, Score, compare, ratio_interval
from gbdnn.speech.study.decoded import pooled

__all__ = ["Claim", "claims", "pairs", "select"]

KEPT, FAILED, UNSEEN, ABSENT = "kept", "failed", "not seen at this scale", "not measured"
NEAR, GAIN, DENSE, SPARSE, SPARSE_NEAR = 0.013, 0.8, 7.6, 20.0, 0.02
SPEEDUP, RTF = 3.4, 0.06


@dataclass(frozen=True)
class Claim:
    """A claim, its rule, what was found and whether the rule holds.

    Attributes
    ----------
    claim, rule, found : str
    verdict : str
        "kept", "failed", "not seen at this scale", or "not measured".
    """

    claim: str
    rule: str
    found: str
    verdict: str


def select(rows: Sequence[Record], **given: Any) -> list[Record]:
    """Return the rows with these values, by seed."""
    found = [row for row in rows if all(row.get(key) == value for key, value in given.items())]
    return sorted(found, key=lambda row: row.get("seed", 0))


def pairs(
    rows: Sequence[Record], one: Mapping[str, Any], two: Mapping[str, Any]
) -> tuple[list[Record], list[Record]]:
    """Return the rows of two systems for the seeds that both have."""
    a, b = ({row["seed"]: row for row in select(rows, **each)} for each in (one, two))
    seeds = sorted(a.keys() & b.keys())
    return [a[seed] for seed in seeds], [b[seed] for seed in seeds]


def claims(rows: Sequence[Record], beam: int, sparse: Sequence[str]) -> list[Claim]:
    """Return all claims.

    Parameters
    ----------
    rows : sequence of dict
        Of a study.
    beam : int
        Of the tests.
    sparse : sequence of str
        The sparse recognisers, that of the claim first.
    """
    words = {"kind": "words", "test": "matched", "fusion": "none", "beam": beam}
    found = [_naive(rows, words), _tailored(rows, words, "voices not trained on")]
    found.append(_tailored(rows, {**words, "test": "known"}, "voices of the training"))
    found += [_choice(rows, way) for way in ("rounded", "trained")]
    kinds = {row["fusion"]: None for row in select(rows, kind="words", test="target", beam=beam)}
    found += [_fusion(rows, kind, beam) for kind in kinds if kind != "none"]
    found.append(_bytes(rows))
    found += [_sparse(rows, name, words) for name in sparse]
    found += [*_simulated(rows), *_speed(rows)]
    return found


def _naive(rows: Sequence[Record], words: dict[str, Any]) -> Claim:
    claim = "naive INT4 without training hurts"
    rule = "WER up by more than twice the half-width of the interval"

    def judge(difference: float, half: float) -> str:
        return KEPT if difference > 2 * half else UNSEEN

    return _compared(rows, claim, rule, words, "naive", judge)


def _tailored(rows: Sequence[Record], words: dict[str, Any], test: str) -> Claim:
    claim = f"tailored INT4 (fasoli2022, QAT) is near the float RNN-T, {test}"
    rule = f"WER up by at most {100 * NEAR:g} points"
    return _compared(rows, claim, rule, words, "int4",
                     lambda difference, _: KEPT if difference <= NEAR else FAILED)  # fmt: skip


def _compared(
    rows: Sequence[Record], claim: str, rule: str, words: dict[str, Any], name: str,
    judge: Callable[[float, float], str],
) -> Claim:  # fmt: skip
    a, b = pairs(rows, {**words, "model": "float32"}, {**words, "model": name})
    if not a:
        return Claim(claim, rule, "", ABSENT)
    found = compare(pooled(a), pooled(b))
    verdict = judge(found.difference, (found.high - found.low) / 2)
    return Claim(claim, rule, _difference(a, b), verdict)


def _choice(rows: Sequence[Record], way: str) -> Claim:
    claim = f"the choice of quantizers and beginnings matters ({way})"
    rule = "whole table; best and worst differ, interval without 0"
    own = select(rows, kind="quantizer", way=way)
    if len(own) < 2:
        return Claim(claim, rule, "", ABSENT)
    order = sorted(own, key=lambda row: pooled([row]).rate)
    names = ["{weight} per {granularity} from {start}".format(**row) for row in order]
    found = compare(pooled(order[:1]), pooled(order[-1:]))
    text = f"best {names[0]}, worst {names[-1]}: {_difference(order[:1], order[-1:])}"
    return Claim(claim, rule, text, KEPT if found.low > 0 else UNSEEN)


def _fusion(rows: Sequence[Record], kind: str, beam: int) -> Claim:
    claim = f"fusion's gain is kept, {kind}, beam {beam}"
    rule = f"INT4 keeps at least {GAIN:.0%} of the float gain"
    own = {"kind": "words", "test": "target", "beam": beam}
    cells = [
        {row["seed"]: row for row in select(rows, **own, model=model, fusion=name)}
        for model in ("float32", "int4")
        for name in ("none", kind)
    ]
    seeds = sorted(set.intersection(*map(set, cells)))
    if not seeds:
        return Claim(claim, rule, "", ABSENT)
    scores = [pooled([cell[seed] for seed in seeds]) for cell in cells]
    gains = [a.errors - b.errors for a, b in (scores[:2], scores[2:])]
    if gains[0].sum() <= 0:
        return Claim(claim, rule, f"no gain in floats: {gains[0].sum()} errors fewer", UNSEEN)
    low, high = ratio_interval(gains[1], gains[0])
    share = gains[1].sum() / gains[0].sum()
    text = (
        f"float {_rate(scores[0])} to {_rate(scores[1])}, INT4 {_rate(scores[2])} to "
        f"{_rate(scores[3])}: {share:.0%} ({low:.0%} to {high:.0%}) kept; float "
        f"{_kinds(scores[0])} to {_kinds(scores[1], '')}; {_seeds(seeds)}"
    )
    return Claim(claim, rule, text, KEPT if share >= GAIN else FAILED)


def _bytes(rows: Sequence[Record]) -> Claim:
    claim, rule = "dense INT4 is 7.6 times smaller", "bytes of the whole saved file"
    a, b = pairs(rows, {"kind": "bytes", "model": "float32"}, {"kind": "bytes", "model": "int4"})
    if not a:
        return Claim(claim, rule, "", ABSENT)
    times = a[0]["bytes"] / b[0]["bytes"]
    text = f"{a[0]['bytes']:,} to {b[0]['bytes']:,}: {times:.2f} times"
    text += f", compressed {a[0]['bytes'] / b[0]['compressed']:.2f}"
    if ibm := select(rows, kind="simulated", model="ibm-like"):
        text += f"; computed for the IBM-like sizes {ibm[0]['compression']:.2f}"
    return Claim(claim, rule, text, KEPT if times >= DENSE else FAILED)


def _sparse(rows: Sequence[Record], name: str, words: dict[str, Any]) -> Claim:
    part = name.removeprefix("sparse")
    claim = f"INT4 with {part} % sparsity is small and near"
    rule = f"at least {SPARSE:g} times smaller, compressed, WER up by at most {100 * SPARSE_NEAR:g} points"  # noqa: E501
    a, b = pairs(rows, {"kind": "bytes", "model": "float32"}, {"kind": "bytes", "model": name})
    one, two = pairs(rows, {**words, "model": "float32"}, {**words, "model": name})
    if not a or not one:
        return Claim(claim, rule, "", ABSENT)
    times, plain = (a[0]["bytes"] / b[0][key] for key in ("compressed", "bytes"))
    rise = pooled(two).rate - pooled(one).rate
    size = f"{times:.1f} times, {b[0]['compressed']:,} bytes (not compressed {plain:.1f})"
    text = f"{size}; {_difference(one, two)}"
    good = times >= SPARSE and rise <= SPARSE_NEAR
    return Claim(claim, rule, text, KEPT if good else FAILED)


def _simulated(rows: Sequence[Record]) -> Iterator[Claim]:
    own = select(rows, kind="simulated", model="ibm-like", fusion="density-ratio")
    claim = f"FP16 to INT4 with fusion, simulated: {SPEEDUP:g} times faster"
    rules = (f"at least {SPEEDUP:g} times, simulated", f"RTF at most {RTF:g}, simulated")
    if not own:
        yield Claim(claim, rules[0], "", ABSENT)
        return
    row = max(own, key=lambda each: each["beam"])
    speedups, factors = ([each[k] for each in row["sensitivity"]] for k in ("speedup", "rtf"))
    around = "bandwidth and utilisation from a quarter to 4 times"
    where = f"IBM-like, {row['machine']}, beam {row['beam']}"
    text = f"simulated {row['speedup']:.2f} ({min(speedups):.2f} to {max(speedups):.2f} for {around}); {where}"  # noqa: E501
    yield Claim(claim, rules[0], text, KEPT if row["speedup"] >= SPEEDUP else FAILED)
    text = f"simulated {row['rtf']:.3f} ({min(factors):.3f} to {max(factors):.3f}); {where}"
    yield Claim("INT4 with fusion, simulated: RTF .06", rules[1], text,
                KEPT if row["rtf"] <= RTF else FAILED)  # fmt: skip


def _speed(rows: Sequence[Record]) -> Iterator[Claim]:
    rule = f"RTF at most {RTF:g}, measured on one thread with density ratio"
    for row in select(rows, kind="speed", threads=1, fusion="density-ratio"):
        two = select(rows, kind="speed", threads=2, fusion="density-ratio", model=row["model"])
        text = f"{row['rtf']:.3f}" + "".join(f", two threads {r['rtf']:.3f}" for r in two)
        yield Claim(f"CPU speed, {row['model']}, beam {row['beam']}", rule, text,
                    KEPT if row["rtf"] <= RTF else FAILED)  # fmt: skip


def _difference(a: Sequence[Record], b: Sequence[Record]) -> str:
    """Return the rates of two systems, their difference with its interval, S/D/I and seeds."""
    one, two = pooled(a), pooled(b)
    found = compare(one, two)
    text = (
        f"{_rate(one)} to {_rate(two)}: {100 * found.difference:+.1f} points "
        f"({100 * found.low:+.1f} to {100 * found.high:+.1f}); {_kinds(one)} to {_kinds(two, '')}"
    )
    if len(a) > 1:
        each = [pooled([y]).rate - pooled([x]).rate for x, y in zip(a, b, strict=True)]
        text += "; seeds " + ", ".join(f"{100 * value:+.1f}" for value in each)
        return text
    return f"{text}; {_seeds([row['seed'] for row in a])}"


def _rate(found: Score) -> str:
    return f"{100 * found.rate:.1f} %"


def _kinds(found: Score, name: str = "S/D/I ") -> str:
    """Return S/D/I in percent of the words."""
    total = found.words.sum()
    parts = [f"{100 * np.sum(getattr(found, name)) / total:.1f}" for name in KINDS]
    return f"{name}{'/'.join(parts)}"


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"{len(seeds)} seeds"

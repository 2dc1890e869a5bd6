"""Plans by name, made for a network.

`fasoli2021` and `fasoli2022` implement the method of the abstracts of Fasoli et al. 2021
(arXiv:2108.12074) and 2022 (arXiv:2206.07882), with the quantizers as published in IBM's
fms-model-optimizer. What these do not say is ours; the reasons in a plan say so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from gbdnn.errors import DtypeError, InputError, choose
from gbdnn.layers import Layer
from gbdnn.quantization.base import Quantizer
from gbdnn.quantization.plan import QuantizationPlan
from gbdnn.quantization.quantizers import Fix, Max, PactPlus, Percentile, Sawb
from gbdnn.quantization.rules import Rule

__all__ = ["PLANS", "as_plan"]

GATE = "one for each gate and matrix (IBM's code)"
GAUSS = "near Gaussian: the clip from two moments (IBM's code)"
OUTER = "two sides, from percentiles (IBM's code)"
BOUND = "|h| < 1: a clip that needs no training (ours)"
CLIPS = "clips from -1 and 1 on (IBM's code)"
CARRIED = "a layer that is not recurrent: the same method (ours)"
DOWN = "a projection: as the gates, but its input stays floats (ours)"
OUTLIER = "an outlier may carry information: nothing is cut off (ours)"


def naive_int4(layers: Mapping[str, Layer]) -> QuantizationPlan:
    """MAX with 4 bits everywhere: what the papers call naive."""
    return _everywhere("naive_int4", layers, Max(4), Max(4), "tensor", "the largest value")


def int8(layers: Mapping[str, Layer]) -> QuantizationPlan:
    """Weights MAX with 8 bits in each row, activations within percentiles 0.01 and 99.99."""
    inner = Percentile(8, "two", percent=99.99)
    return _everywhere("int8", layers, Max(8), inner, "row", "8 bits: hardly a loss")


def _everywhere(
    name: str, layers: Mapping[str, Layer], weight: Quantizer, inner: Quantizer,
    granularity: str, why: str,
) -> QuantizationPlan:  # fmt: skip
    rules = []
    for prefix, layer, takes_hidden in _weighted(layers):
        rules += [Rule(f"{prefix}.{own}", weight, granularity, why) for own in layer.weight_names]
        rules += [
            Rule(f"{prefix}.{own}", inner, why=why)
            for own in layer.activation_names
            if not (own == "input" and takes_hidden)
        ]
    return QuantizationPlan(tuple(rules), name)


def fasoli2021(layers: Mapping[str, Layer]) -> QuantizationPlan:
    """INT4 in the recurrent layers: SAWB per gate, PACT+ for their inputs and for h.

    The other layers stay floats, as in the paper. A network without recurrent layers is treated as
    `fasoli2022` does (ours).
    """
    recurrent = any(_is_recurrent(layer) for layer in layers.values())
    hidden = PactPlus(4, "two", start=(-1.0, 1.0))
    return QuantizationPlan(
        tuple(_tailored(layers, hidden, CLIPS, others=not recurrent)), "fasoli2021"
    )


def fasoli2022(layers: Mapping[str, Layer]) -> QuantizationPlan:
    """INT4 in the whole network: as `fasoli2021`, h by FIX; all other layers too.

    Which quantizers the paper has for these its abstract does not say; ours: SAWB, MAX for the last
    layer and for embeddings; inputs PACT+, of one side behind a relu.
    """
    return QuantizationPlan(tuple(_tailored(layers, Fix(4), BOUND, others=True)), "fasoli2022")


def _tailored(
    layers: Mapping[str, Layer], hidden: Quantizer, why: str, *, others: bool
) -> Iterator[Rule]:
    weighted = list(_weighted(layers))
    positive = _positive(layers)
    for prefix, layer, takes_hidden in weighted:
        recurrent = _is_recurrent(layer)
        if not (recurrent or others):
            continue
        for own in layer.weight_names:
            name = f"{prefix}.{own}"
            if recurrent and layer.activation_of(own):
                yield Rule(name, Sawb(4), "gate", f"{GAUSS}, {GATE}")
            elif recurrent:
                yield Rule(name, Sawb(4), why=DOWN)
            elif prefix == weighted[-1][0] or not layer.activation_names:
                yield Rule(name, Max(4), why=OUTLIER)
            else:
                yield Rule(name, Sawb(4), why=CARRIED)
        for own in layer.activation_names:
            name = f"{prefix}.{own}"
            if own != "input" and any(w.endswith("projection") for w in layer.weight_names):
                yield Rule(name, PactPlus(4, "two"), why=f"projected, without a bound: {OUTER}")
            elif own != "input":
                yield Rule(name, hidden, why=why)
            elif not takes_hidden:
                one = prefix in positive
                inner = PactPlus(4, "one" if one else "two")
                yield Rule(name, inner, why="never negative: one side (ours)" if one else OUTER)


def _is_recurrent(layer: Layer) -> bool:
    return "hidden" in layer.activation_names


def _weighted(layers: Mapping[str, Layer]) -> Iterator[tuple[str, Layer, bool]]:
    """Yield name and layer of those with weights; whether a recurrent one takes another's h."""
    before: Layer | None = None
    for prefix, layer in layers.items():
        if layer.weight_names:
            follows = before is not None and _is_recurrent(before) and _is_recurrent(layer)
            yield prefix, layer, follows
        if not layer.only_trains:
            before = layer


def _positive(layers: Mapping[str, Layer]) -> set[str]:
    """Return which layers' inputs are never negative."""
    found, positive = set(), False
    for prefix, layer in layers.items():
        if positive:
            found.add(prefix)
        if not layer.only_trains:
            positive = layer.kind in ("sigmoid", "softmax") or (
                layer.clamp is not None and layer.clamp[0] >= 0
            )
    return found


PLANS: dict[str, Callable[[Mapping[str, Layer]], QuantizationPlan]] = {
    "naive_int4": naive_int4, "fasoli2021": fasoli2021, "fasoli2022": fasoli2022, "int8": int8,
}  # fmt: skip


def as_plan(given: Any, layers: Mapping[str, Layer]) -> QuantizationPlan:
    """Return a plan: a `QuantizationPlan`, one by name, a dict of patterns, or a record.

    Raises
    ------
    UnknownNameError, DtypeError, InputError
    """
    if isinstance(given, QuantizationPlan):
        return given
    if isinstance(given, str):
        made = PLANS[choose("plan", given, PLANS)](layers)
    elif isinstance(given, Mapping):
        if "rules" in given:
            return QuantizationPlan.from_dict(given)
        made = QuantizationPlan(given)  # type: ignore[arg-type]  # which makes rules of it
    else:
        expected = (
            f"a QuantizationPlan, a dict of patterns, or one of {', '.join(map(repr, PLANS))}"
        )
        raise DtypeError("plan", expected, type(given).__name__)
    if not made.rules:
        raise InputError("plan", "at least one rule", "none")
    return made

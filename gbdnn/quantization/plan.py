"""Plans: which tensor of a network gets which quantizer, as data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from gbdnn import checks
from gbdnn.errors import DataUnavailableError, DtypeError, FileFormatError, InputError
from gbdnn.layers import Layer
from gbdnn.quantization.description import Description, described
from gbdnn.quantization.rules import Rule, WeightQuantizer, activations, weights
from gbdnn.types import FilePath

__all__ = ["QuantizationPlan"]


@dataclass(frozen=True)
class QuantizationPlan:
    """Quantizers for the weights and activations of a network.

    Each tensor matches one rule at most, each rule at least one tensor. A tensor without a rule
    stays as it is. Where an activation has a rule, so must the weight that it is multiplied with;
    weights alone may have one, then activations stay floats.

    Parameters
    ----------
    rules : sequence of Rule, or dict of patterns
        To names of quantizers, `Quantizer` or records:
        ``{"*.weight": "max", "*.input": {"quantizer": "pact+", "bits": 4, "sides": "two"}}``.
    name : str
    learned_rate : float
        The learning rate of what quantizers learn is so many times the trainer's.
    learned_decay : float
        Its weight decay, instead of the optimizer's.

    Raises
    ------
    InputError, DtypeError, UnknownNameError
    """

    rules: tuple[Rule, ...]
    name: str = ""
    learned_rate: float = 1.0
    learned_decay: float = 0.0

    def __post_init__(self) -> None:
        rules: Any = self.rules
        if isinstance(rules, Mapping):
            rules = tuple(Rule.of(str(pattern), given) for pattern, given in rules.items())
        known = isinstance(rules, tuple | list) and all(isinstance(rule, Rule) for rule in rules)
        if not known:
            raise DtypeError("rules", "a sequence of Rule, or a dict of patterns", repr(rules)[:60])
        object.__setattr__(self, "rules", tuple(rules))
        checks.not_negative("learned_rate", self.learned_rate)
        checks.not_negative("learned_decay", self.learned_decay)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON can say it."""
        return {
            "name": self.name,
            "learned_rate": self.learned_rate,
            "learned_decay": self.learned_decay,
            "rules": {rule.pattern: rule.record() for rule in self.rules},
        }

    @classmethod
    def from_dict(cls, record: Any) -> QuantizationPlan:
        """Undo `to_dict`; all but "rules" may be missing.

        Raises
        ------
        InputError, DtypeError, UnknownNameError
        """
        known = {"name", "learned_rate", "learned_decay", "rules"}
        if not isinstance(record, Mapping) or not {"rules"} <= record.keys() <= known:
            got = ", ".join(map(str, record)) if isinstance(record, Mapping) else repr(record)[:60]
            raise InputError("plan", f"a dict with rules (also {', '.join(sorted(known))})", got)
        if not isinstance(record["rules"], Mapping):
            raise DtypeError("rules", "a dict of patterns", type(record["rules"]).__name__)
        return cls(**record)

    def save(self, path: FilePath) -> None:
        """Write the plan to a JSON file."""
        from gbdnn.files.disk import atomic_write

        with atomic_write(Path(path)) as file:
            file.write(json.dumps(self.to_dict(), indent=2).encode())

    @classmethod
    def load(cls, path: FilePath) -> QuantizationPlan:
        """Read a JSON file.

        Raises
        ------
        DataUnavailableError, FileFormatError
        """
        try:
            text = Path(path).read_text()
        except OSError as error:
            reason = error.strerror or str(error)
            raise DataUnavailableError(str(path), "a file that can be read", reason) from None
        except UnicodeDecodeError as error:
            raise FileFormatError(str(path), "JSON", str(error)[:100]) from None
        try:
            return cls.from_dict(json.loads(text))
        except json.JSONDecodeError as error:
            raise FileFormatError(str(path), "JSON", str(error)[:100]) from None
        except (InputError, DtypeError) as error:
            what = f"{path}, {error.argument}"
            raise FileFormatError(what, error.expected, error.got, error.fix) from None

    def assigned(self, layers: Mapping[str, Layer]) -> dict[str, Rule]:
        """Return the rule of each tensor that has one, by its name, in the network's order.

        Parameters
        ----------
        layers : dict
            `Network.named_layers`.

        Raises
        ------
        InputError
            If a pattern matches nothing, or two match one tensor; if a weight's levels are not
            symmetric or its parts uneven; if an activation has a rule, its weight none.
        """
        known, inner = weights(layers), activations(layers)
        found: dict[str, Rule] = {}
        for rule in self.rules:
            matched = [name for name in (*known, *inner) if fnmatchcase(name, rule.pattern)]
            if not matched:
                expected = f"patterns of some of {', '.join((*known, *inner))}"
                raise InputError("plan", expected, repr(rule.pattern))
            for name in matched:
                if name in found:
                    expected = f"one pattern that matches {name}"
                    got = f"{found[name].pattern!r} and {rule.pattern!r}"
                    raise InputError("plan", expected, got)
                found[name] = rule
        for name, rule in found.items():
            if name in known:
                _check_weight(name, rule, *known[name])
            else:
                _check_activation(name, rule, inner[name], found)
        return {name: found[name] for name in (*known, *inner) if name in found}

    def describe(self, network: Any) -> Description:
        """Return a table of all tensors: quantizer, bits, bytes, and why; it prints itself.

        Parameters
        ----------
        network : Network
        """
        return described(self.name, network, self.assigned(network.named_layers))


def _check_weight(name: str, rule: Rule, layer: Layer, own: str) -> None:
    if not rule.quantizer.is_symmetric:
        fix = "Weights have symmetric levels."
        raise InputError(f"plan, {name}", "sides='symmetric'", repr(rule.quantizer), fix)
    parts = WeightQuantizer(rule.quantizer, rule.granularity, layer.row_blocks)
    try:
        parts.parts(getattr(layer, own).shape)
    except InputError as error:
        raise InputError(f"plan, {name}, {error.argument}", error.expected, error.got) from None


def _check_activation(name: str, rule: Rule, own: list[str], found: Mapping[str, Rule]) -> None:
    if rule.granularity != "tensor":
        got = repr(rule.granularity)
        raise InputError(f"plan, {name}, granularity", "'tensor' for an activation", got)
    for weight in own:
        if weight not in found:
            fix = "Integer products need both; weights alone may have one."
            raise InputError("plan", f"a rule for {weight} too, as {name} has one", "none", fix)
    for each in (name, *own):
        if not found[each].quantizer.has_levels:
            got = f"{found[each].quantizer.kind!r}, which has no levels()"
            raise InputError(f"plan, {each}", "quantizers that can be frozen", got)

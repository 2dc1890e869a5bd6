"""Which quantizer, begun where, for how much of a weight: rounded, and trained on for a while."""

from __future__ import annotations

import itertools
from dataclasses import replace

from gbdnn.files.rows import Record
from gbdnn.quantization import QuantizationPlan, as_plan
from gbdnn.quantization.quantizers import Max, Octav, PactPlus, Sawb
from gbdnn.speech import training
from gbdnn.speech.recogniser import Recogniser
from gbdnn.speech.study.decoded import encoded, scored, written
from gbdnn.speech.study.recognisers import PLAN, PLAN_RATE, recogniser, rounded, trained
from gbdnn.speech.study.settings import Study

__all__ = ["GRANULARITIES", "STARTS", "WEIGHTS", "plan_of", "quantizers"]

WEIGHTS = {"max": Max(4), "octav": Octav(4), "sawb": Sawb(4)}
GRANULARITIES = ("tensor", "gate")
STARTS = {"percentiles": 99.9, "extremes": 100.0}
"""Where the learned clips of activations begin: percentiles of what was seen."""
SHARE = 4  # of the training's utterances, one epoch: the short training


def quantizers(study: Study, seed: int) -> None:
    """Round the float recogniser in each way, and train each a little; greedy, matched voices."""
    for weight, granularity, start in itertools.product(WEIGHTS, GRANULARITIES, STARTS):
        for way in ("rounded", "trained"):

            def make(
                weight: str = weight, granularity: str = granularity, start: str = start,
                way: str = way,
            ) -> Record:  # fmt: skip
                found = recogniser(study, seed, "float32")
                plan = plan_of(found, weight, granularity, start)
                if way == "rounded":
                    made = rounded(study, found, plan)
                else:
                    all_of = study.needed("train")
                    data = training.Data(all_of.frames[::SHARE], all_of.texts[::SHARE], [])
                    name = f"{weight}-{granularity}-{start}-{seed}"
                    made = trained(study, name, found, 1, PLAN_RATE, seed, plan, data=data,
                                   early_stopping=None)  # fmt: skip
                test = study.needed("matched")
                heard = written(made, encoded(study, made, test), 1, None)
                return {
                    "kind": "quantizer", "seed": seed, "weight": weight, "way": way,
                    "granularity": granularity, "start": start, **scored(test.texts, heard),
                }  # fmt: skip

            study.cell(f"quantizer/{weight}/{granularity}/{start}/{way}/seed {seed}", make)


def plan_of(found: Recogniser, weight: str, granularity: str, start: str) -> QuantizationPlan:
    """Return the tailored plan with another quantizer, another scope and another beginning.

    Weights that it rounds by SAWB get `weight`, those of the gates in this granularity; learned
    clips begin at `start`.
    """
    plan = as_plan(PLAN, found.model.named_layers)
    rules = []
    for rule in plan.rules:
        if isinstance(rule.quantizer, Sawb):
            scope = granularity if rule.granularity == "gate" else rule.granularity
            rule = replace(rule, quantizer=WEIGHTS[weight], granularity=scope, why="")
        elif isinstance(rule.quantizer, PactPlus):
            rule = replace(rule, quantizer=replace(rule.quantizer, percent=STARTS[start]), why="")
        rules.append(rule)
    return replace(plan, rules=tuple(rules), name=f"{weight} {granularity} {start}")

"""`gbdnn bench hybrid-accuracy`: word error rates of a hybrid recogniser in float and in INT4.

Synthetic speech is made, a float recogniser trained, and others made of it: trained on in float
just as long, rounded, trained on with roundings; and the plan `fasoli2022` with parts of it at 8
bits instead of 4, without training, which shows where the errors come from. All hear the same test.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.process import Job, Record
from benchmarks.rounds import measured
from gbdnn.challenge.table import markdown_table, origin
from gbdnn.types import Array

__all__ = ["HybridAccuracyJob", "compare", "jobs", "report", "row"]

compare = measured
FLOAT, LONGER, TAILORED = "float", "float, trained on", "fasoli2022, QAT"
ROUNDED = ("int8", "fasoli2022", "naive_int4")
SPARED = {
    "input": ("layers.0.input",),
    "first weights": ("layers.0.*_weight",),
    "h": ("*.hidden",),
    "output layer": ("{last}.weight", "{last}.input"),
    "recurrent weights": ("*_recurrent",),
    "input and output layer": ("layers.0.input", "{last}.weight", "{last}.input"),
}
"""Parts of `fasoli2022` that get 8 bits, by patterns; {last} is the last layer with weights."""
OUTER = "input and output layer"
TRAINED = (LONGER, TAILORED, "fasoli2021, QAT", f"fasoli2022, {OUTER} 8 bits, QAT")
WEIGHTS, BONUSES = (0.5, 1.0, 2.0), (-3.0, 0.0, 3.0)
ROUNDS = 5  # of Gaussians
TUNED = 60  # utterances that choose weight and bonus of the bigram
RULE = 0.005  # of the words, which INT4 may lose


@dataclass(frozen=True, kw_only=True)
class HybridAccuracyJob(Job):
    """A float recogniser and what is made of it, all from one seed.

    Attributes
    ----------
    seed : int
    utterances, held_out : int
        For training, and in the test: other texts by other speakers.
    layers : str
        As of `gbdnn.models.recurrent`.
    epochs : int
        On the alignments of Gaussians, and again on the network's.
    plan_epochs : int
        Of each training that goes on, in float or with roundings.
    learning_rate, plan_rate : float
        Fall to 0 as a cosine.
    """

    seed: int
    utterances: int = 1200
    held_out: int = 300
    layers: str = "blstm 64, blstm 64"
    epochs: int = 8
    plan_epochs: int = 4
    learning_rate: float = 4e-3
    plan_rate: float = 5e-4

    def measure(self) -> Record:
        """Train, round, hear the test: for each variant errors by utterance, and bytes."""
        from gbdnn import quantize
        from gbdnn.quantization import as_plan
        from gbdnn.speech.hybrid import train_hybrid, tune_hybrid
        from gbdnn.training import Trainer

        with tempfile.TemporaryDirectory() as folder:
            front, sets = self._data(Path(folder))
        settings: dict[str, Any] = {
            "batch_size": 16, "schedule": "cosine", "clip_norm": 5.0, "rng": self.seed,
            "threads": self.threads,
        }  # fmt: skip
        lexicon = _lexicon(sets)
        trainer = Trainer(epochs=self.epochs, learning_rate=self.learning_rate, **settings)
        model = train_hybrid(sets["train"], lexicon, layers=self.layers, trainer=trainer,
                             rounds=ROUNDS, front=front, rng=self.seed)  # fmt: skip
        listener = _Listener.tuned(model, sets, self.threads)
        found = {FLOAT: listener.errors(model, sets["test"])}
        trainer = Trainer(epochs=self.plan_epochs, learning_rate=self.plan_rate, **settings)
        layers = model.network.named_layers
        tailored = as_plan("fasoli2022", layers)
        plans: dict[str, Any] = {name: name for name in ROUNDED}
        for name, patterns in SPARED.items():
            plans[f"fasoli2022, {name} 8 bits"] = spared(tailored, layers, patterns)
        for name in TRAINED:
            plan = name.removesuffix(", QAT")
            tuner = replace(trainer, quantization=plans.get(plan, plan) if name != LONGER else None)
            found[name] = listener.errors(tune_hybrid(model, sets["train"], tuner), sets["test"])
        sample = [frames for frames, _ in sets["train"][:TUNED]]
        for name, plan in plans.items():
            rounded = model.with_network(quantize(model.network, plan, sample))
            found[name] = listener.errors(rounded, sets["test"])
        return {"variants": found, "weight": listener.weight, "bonus": listener.bonus}

    def _data(self, folder: Path) -> tuple[Any, dict[str, list[tuple[Array, str]]]]:
        """Return the front end, and frames with texts of train, dev and test."""
        from gbdnn.speech.data import FrontEnd, Vocabulary, examples, read_aloud, read_manifest
        from gbdnn.speech.data import texts as words
        from gbdnn.speech.data.corpus import CorpusPlan

        front = FrontEnd(rate=8000, bins=40, stack=3, skip=3)
        rng, seen = np.random.default_rng([self.seed, 100]), set[str]()
        sets: dict[str, Any] = {}
        voices = {"test": "speakers", "dev": "speakers", "train": "known"}
        for name, count in (("test", self.held_out), ("dev", TUNED), ("train", self.utterances)):
            said = words.distinct(words.source_text, count, rng, seen)
            seen.update(said)
            plan = CorpusPlan(utterances=count, accents=2, snr=(10.0, 25.0), seed=self.seed)
            path = read_aloud(folder / name, said, plan, voices=voices[name])
            found = examples(read_manifest(path), front, Vocabulary.of(said))
            sets[name] = [(example.frames, example.utterance.text) for example in found]
        fitted = front.fitted([frames for frames, _ in sets["train"]])
        from gbdnn.speech.training import normalised

        return fitted, {
            name: [(normalised(fitted, frames), text) for frames, text in pairs]
            for name, pairs in sets.items()
        }

    def describe(self, record: Record) -> str:
        """Return the word error rates."""
        rates = {name: _score([found]).rate for name, found in record["variants"].items()}
        return f"seed {self.seed}: " + ", ".join(f"{n} {100 * r:.1f}" for n, r in rates.items())


@dataclass(frozen=True, eq=False)
class _Listener:
    """How all variants are decoded: with one bigram, weight and bonus, chosen for the float one."""

    graph: Any
    weight: float
    bonus: float
    threads: int

    @classmethod
    def tuned(cls, model: Any, sets: dict[str, Any], threads: int) -> _Listener:
        from gbdnn.decoding import train_ngram
        from gbdnn.speech.hybrid import decoding_graph

        texts = [model.lexicon.encode(text) for _, text in sets["train"]]
        bigram = train_ngram(texts, 2, len(model.lexicon.words) + 1)
        scores = model.scores([frames for frames, _ in sets["dev"]], threads=threads)
        found: list[tuple[float, _Listener]] = []
        for weight in WEIGHTS:
            for bonus in BONUSES:
                graph = decoding_graph(model.lexicon, bigram, weight=weight, bonus=bonus)
                trial = cls(graph, weight, bonus, threads)
                rate = _score([trial.counts(model.lexicon, scores, sets["dev"])]).rate
                found.append((rate, trial))
        return min(found, key=lambda pair: pair[0])[1]

    def errors(self, model: Any, pairs: Sequence[tuple[Array, str]]) -> Record:
        """Return words and errors of each utterance, and the bytes of the file."""
        scores = model.scores([frames for frames, _ in pairs], threads=self.threads)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.safetensors"
            model.save(path)
            size = path.stat().st_size
        return {"file_bytes": size, **self.counts(model.lexicon, scores, pairs)}

    def counts(self, lexicon: Any, scores: Sequence[Array], pairs: Sequence[Any]) -> Record:
        """Return words and errors of each utterance, of what is found in states' scores."""
        from gbdnn.decoding import viterbi
        from gbdnn.speech.scoring import KINDS, score

        heard, graph = [], self.graph
        for own in scores:
            path, _ = viterbi(graph.transitions, own[:, graph.states], graph.initial, graph.final,
                              engine="numpy")  # fmt: skip
            heard.append(lexicon.decode(word for word, _, _ in graph.spans(path)))
        found = score([text for _, text in pairs], heard)
        return {name: getattr(found, name).tolist() for name in ("words", *KINDS)}


def spared(plan: Any, layers: Any, patterns: Sequence[str]) -> Any:
    """Return a plan in which the tensors that match patterns get 8 bits, as `int8` has them."""
    from gbdnn.quantization import as_plan

    eight = as_plan("int8", layers).assigned(layers)
    last = [name for name, layer in layers.items() if layer.weight_names][-1]
    wanted = [pattern.format(last=last) for pattern in patterns]
    rules = []
    for name, rule in plan.assigned(layers).items():
        chosen = any(fnmatchcase(name, pattern) for pattern in wanted)
        own = eight[name] if chosen else rule
        rules.append(replace(own, pattern=name))
    return replace(plan, rules=tuple(rules), name="")


def jobs(seeds: int, **settings: Any) -> list[HybridAccuracyJob]:
    """Return a job for each seed; `settings` are its other fields."""
    return [HybridAccuracyJob(seed=seed, **settings) for seed in range(seeds)]


def _lexicon(sets: dict[str, Any]) -> Any:
    from gbdnn.speech.hybrid import Lexicon

    texts = [text for pairs in sets.values() for _, text in pairs]
    return Lexicon.of_texts(texts, states=1, silence=1)


def _score(found: Sequence[Record]) -> Any:
    """Return the score of a variant, over all seeds' utterances."""
    from gbdnn.speech.scoring import KINDS, Score

    names = ("words", *KINDS)
    return Score(**{name: np.concatenate([part[name] for part in found]) for name in names})


def row(records: Sequence[Record], variant: str, against: str = LONGER) -> dict[str, Any]:
    """Return a variant's error rate over all seeds, and how it differs from another's.

    Returns
    -------
    dict
        `rate`, `low`, `high`, `words`, `errors`, `substitutions`, `deletions`, `insertions`,
        `difference` with `difference_low`, `difference_high` and `p` (matched pairs), `bytes`,
        `seeds`, `kept`: whether at most half a point of the words is lost.
    """
    from gbdnn.speech.scoring import compare as paired

    own, other = (_score([record["variants"][name] for record in records])
                  for name in (variant, against))  # fmt: skip
    found = paired(other, own)
    size = float(np.mean([record["variants"][variant]["file_bytes"] for record in records]))
    record: dict[str, Any] = own.record | {
        "difference": found.difference, "difference_low": found.low, "difference_high": found.high,
        "p": found.p, "bytes": size, "seeds": len(records), "kept": found.difference <= RULE,
    }  # fmt: skip
    return record


def report(records: Sequence[Record]) -> str:
    """Return Markdown: a row for each variant, over all seeds, and whether the rule is kept."""
    rows, head = [], ["model", "WER %", "S/D/I", "difference, points", "p", "kB"]
    for name in records[0]["variants"]:
        found = row(records, name)
        kinds = "/".join(str(found[k]) for k in ("substitutions", "deletions", "insertions"))
        points = [100 * found[k] for k in ("difference", "difference_low", "difference_high")]
        rows.append([
            name,
            f"{100 * found['rate']:.1f} ({100 * found['low']:.1f} to {100 * found['high']:.1f})",
            kinds,
            "" if name == LONGER else "{:+.1f} ({:+.1f} to {:+.1f})".format(*points),
            "" if name == LONGER else f"{found['p']:.2g}",
            f"{found['bytes'] / 1e3:.0f}",
        ])  # fmt: skip
    first, tailored = records[0], row(records, TAILORED)
    verdict = "kept" if tailored["kept"] else "**missed**"
    return (
        f"{markdown_table(head, rows, left=1)}\n"
        f"The rule, {TAILORED} at most {100 * RULE:g} points above {LONGER}: {verdict}.\n\n"
        f"{first['layers']}, one state for each character, {first['utterances']:,} utterances of "
        f"synthetic speech, 2 x {first['epochs']} epochs, then {first['plan_epochs']}; "
        f"{tailored['utterances']:,} test utterances by other speakers, {tailored['words']:,} "
        f"words, {tailored['seeds']} seeds; intervals of 95 % over utterances, differences in "
        f"pairs against '{LONGER}'; {origin(first)}\n"
    )

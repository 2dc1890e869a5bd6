"""What `gbdnn speech train` and `gbdnn speech decode` do with hybrid recognisers.

Modules that need numpy are imported where they are used.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from gbdnn.cli.output import echo_rows
from gbdnn.errors import InputError

if TYPE_CHECKING:
    from gbdnn.speech.data import BadUtterance, Utterance
    from gbdnn.speech.decoding import Heard
    from gbdnn.speech.hybrid import Hybrid, HybridDecoder, HybridTrial, Lexicon
    from gbdnn.speech.training import Data
    from gbdnn.training import Result, Trainer

__all__ = ["decoder_of", "heard", "refuse", "report", "split", "train"]

Trainers = Callable[[dict[str, Any], Any], dict[str, "Trainer"]]
UNKNOWN = "Give texts with all words by --words, or pass over such utterances by --skip-bad."
NOT_DECODED = {
    "beam": "Viterbi is exact, without a beam", "search": "its search is Viterbi",
    "source_lm": "its scores are divided by the states' priors: see --prior-scale",
    "kind": "its language model is in the graph", "source_weight": "see --prior-scale",
    "stream": "Viterbi takes whole recordings",
}  # fmt: skip


def refuse(names: dict[str, str] | tuple[str, ...], needed: str, given: str) -> None:
    """Raise for options that were given and belong to recognisers of the other kind."""
    context = click.get_current_context()
    options = {option.name: option.opts[-1] for option in context.command.params}
    for name in names:
        source = context.get_parameter_source(name)
        if source not in (None, ParameterSource.DEFAULT):
            why = f": {names[name]}" if isinstance(names, dict) else ""
            message = f"{options[name]} is for {needed}, and this is {given}{why}. Leave it out."
            raise click.UsageError(message)


def split(manifest: Path, dev: Path | None) -> tuple[list[Utterance], list[Utterance]]:
    """Return what is trained on and what is held out: --dev, or every 20th utterance."""
    from gbdnn.speech.data import read_manifest

    said = read_manifest(manifest)
    if dev is not None:
        return said, read_manifest(dev)
    return [u for k, u in enumerate(said) if k % 20] or said, said[::20]


# -- training --------------------------------------------------------------------------------------


def train(manifest: Path, out: Path, given: dict[str, Any], trainers: Trainers) -> dict[str, Any]:
    """Train a hybrid recogniser, write its file, and return a record of it.

    Parameters
    ----------
    manifest, out : Path
    given : dict
        The options of `gbdnn speech train`.
    trainers : callable
        Returns the settings of the trainings, by options and patterns of weights that stay dense.
    """
    from gbdnn.speech.hybrid import train_hybrid, tune_hybrid

    if not given["epochs"] and given["init"] is None:
        raise click.UsageError("--epochs 0 is for --init: there is no model to go on from")
    model, parts = _start(manifest, given)
    pairs, held = (list(zip(part.frames, part.texts, strict=True)) for part in parts)
    chosen = trainers(given, (f"layers.{len(model.network.layers) - 1}.*",))
    results: dict[str, Result] = {}
    common: dict[str, Any] = {
        "held_out": held, "resume": given["resume"], "done": results.__setitem__,
    }  # fmt: skip
    if given["init"] is None:
        click.echo(f"aligning {len(pairs):,} utterances from a flat start", err=True)
        model = train_hybrid(
            pairs, model.lexicon, network=model.network, trainer=chosen.pop("float"),
            realignments=given["realignments"], front=model.front, **common,
        )  # fmt: skip
    for name, trainer in chosen.items():
        model = tune_hybrid(model, pairs, trainer, **common)
        results[name] = results.pop("tuned")
    model.save(out, compress=given["compress"])
    bad = [error for part in parts for error in part.bad]
    return _record(model, (len(pairs), len(held)), bad, results, out)


def _start(manifest: Path, given: dict[str, Any]) -> tuple[Hybrid, list[Data]]:
    """Return where training begins, and what it can use for training and held out."""
    from dataclasses import replace

    from gbdnn.speech.data import FrontEnd
    from gbdnn.speech.hybrid import load_hybrid
    from gbdnn.speech.training import read_data

    said, held = split(manifest, given["dev"])
    init = None if given["init"] is None else load_hybrid(given["init"])
    if init is None:
        shape = {name: given[name] for name in ("rate", "bins", "deltas", "stack")}
        front = FrontEnd(**shape, skip=given["stack"])
    elif init.front is None:
        raise InputError("--init", "a recogniser with a front end", "one without")
    else:
        front = replace(init.front, mean=None, deviation=None)
    options: dict[str, Any] = {"skip_bad": given["skip_bad"], "progress": True}
    data = read_data(said, front, **options, name="training audio")
    dev = read_data(held, front, **options, name="development audio")
    if init is None:
        own = data.texts + (dev.texts if given["dev"] is None else [])
        init = _new(_lexicon(own, given), data, front, given)
    return init, [_usable(part, init, given["skip_bad"]) for part in (data, dev)]


def _lexicon(texts: list[str], given: dict[str, Any]) -> Lexicon:
    from gbdnn.speech.data.manifest import read_texts
    from gbdnn.speech.hybrid import Lexicon, read_lexicon

    if given["lexicon"] is not None and given["words"]:
        raise click.UsageError("--words cannot be used with --lexicon, which has all words")
    states = {"states": given["states"], "silence": given["states"]}
    if given["lexicon"] is not None:
        return read_lexicon(given["lexicon"], **states)
    more = [line for path in given["words"] for line in read_texts(path)]
    return Lexicon.of_texts([*texts, *more], **states)


def _new(lexicon: Lexicon, data: Data, front: Any, given: dict[str, Any]) -> Hybrid:
    """Return a recogniser with random weights and equal priors."""
    import numpy as np

    from gbdnn.models import recurrent
    from gbdnn.speech.hybrid import Hybrid

    network = recurrent(
        given["encoder"], front.features, lexicon.count, density=given["density"],
        dropout=given["dropout"], rng=given["seed"],
    )  # fmt: skip
    priors = np.full(lexicon.count, -np.log(lexicon.count))
    return Hybrid(network, lexicon, priors, front.fitted(data.frames))


def _usable(data: Data, model: Hybrid, skip_bad: bool) -> Data:
    """Return utterances as the recogniser takes them; those that it cannot are named."""
    from gbdnn.speech.data import BadUtterance
    from gbdnn.speech.hybrid.training import checked_utterance
    from gbdnn.speech.training import Data, normalised

    bad = list(data.bad)
    found = Data([], [], bad)
    for frames, text, name in zip(data.frames, data.texts, data.names, strict=True):
        try:
            checked_utterance(frames, text, model.lexicon, factor=model.network.time_factor)
        except InputError as error:
            got = f"{error.argument}: expected {error.expected}, got {error.got}"
            fix = UNKNOWN if error.argument == "text" else error.fix
            wrong = BadUtterance(name, "an utterance that can be used", got, fix)
            if not skip_bad:
                raise wrong from None
            bad.append(wrong)
            continue
        assert model.front is not None
        found.frames.append(normalised(model.front, frames))
        found.texts.append(text)
    if not found.frames:
        raise InputError("manifest", "an utterance that can be used", str(bad[0]))
    return found


def _record(
    model: Hybrid, counts: tuple[int, int], bad: list[BadUtterance], results: dict[str, Result],
    out: Path,
) -> dict[str, Any]:  # fmt: skip
    from gbdnn.cli.trained import kept

    total = model.network.summary().total
    return {
        "out": str(out), "kind": "hybrid", "bytes": out.stat().st_size, "utterances": counts[0],
        "dev_utterances": counts[1], "bad": [str(error) for error in bad],
        "words": len(model.lexicon.words), "states": model.lexicon.count,
        "weights": total["nnz"], "density": total["density"],
        "trainings": {
            name: {**kept(result), "stopped": result.stopped, "epochs": len(result.history)}
            for name, result in results.items()
        },
    }  # fmt: skip


def report(record: dict[str, Any]) -> None:
    """Print a record."""
    rows = {
        "utterances": f"{record['utterances']:,}, {record['dev_utterances']:,} held out",
        "lexicon": f"{record['words']:,} words, {record['states']:,} states",
        "weights": f"{record['weights']:,}, density {record['density']:.2%}",
    }
    if record["bad"]:
        rows["passed over"] = f"{len(record['bad']):,}"
    for name, found in record["trainings"].items():
        rows[f"{name}, epoch {found.get('epoch', 0) + 1} of {found['epochs']}"] = (
            f"{found.get('validation_loss', 0):.3f} nats a frame, "
            f"{1 - found.get('validation_score', 0):.2%} of the states wrong, held out"
        )
    rows["file"] = f"{record['out']}, {record['bytes']:,} bytes"
    echo_rows("hybrid recogniser", rows)


# -- decoding --------------------------------------------------------------------------------------


def decoder_of(model: Hybrid, given: dict[str, Any], threads: int | None) -> HybridDecoder:
    """Return the decoder that was asked for, with weights that were given or are tuned."""
    from gbdnn.speech.hybrid import HybridDecoder, load_word_lm, tune_decoder

    refuse(NOT_DECODED, "RNN-T recognisers", "a hybrid one")
    if model.front is None:
        fix = "Train it with gbdnn speech train --kind hybrid."
        raise InputError("model", "a recogniser with a front end", "one for frames", fix)
    lm = None
    if given["lm"] is not None:
        lm = load_word_lm(given["lm"]).for_lexicon(model.lexicon)
    elif given["lm_weight"] is not None:
        raise click.UsageError("--lm-weight needs --lm")
    weight = 1.0 if given["lm_weight"] is None else given["lm_weight"]
    found = HybridDecoder(
        model, lm, weight=weight, bonus=given["bonus"], prior_scale=given["prior_scale"],
        engine="numpy",
    )  # fmt: skip
    if given["tune"] is None:
        return found
    from gbdnn.speech.data import read_manifest
    from gbdnn.speech.training import read_data

    said = read_manifest(given["tune"])[: given["tune_utterances"]]
    data = read_data(said, model.front, progress=True, name="development audio")

    def tell(trial: HybridTrial) -> None:
        click.echo(f"{_numbers(trial.decoder)}: {trial.rate:.2%} of the words wrong", err=True)

    best = tune_decoder(found, data.frames, data.texts, report=tell, threads=threads)
    click.echo(f"chosen: {_numbers(best.decoder)}", err=True)
    return best.decoder


def _numbers(found: HybridDecoder) -> str:
    weight = "" if found.language_model is None else f"--lm-weight {found.weight:g} "
    return f"{weight}--bonus {found.bonus:g}"


def heard(decoder: HybridDecoder, samples: Any, threads: int | None) -> Heard:
    """Recognise a recording, and take the time."""
    from gbdnn.speech.decoding import Heard

    assert decoder.model.front is not None
    begin = time.perf_counter()
    found = decoder.transcribe(samples, threads=threads)
    return Heard(found, len(samples) / decoder.model.front.rate, time.perf_counter() - begin)

"""`gbdnn speech train`: a recogniser from a manifest, in float and in few bits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gbdnn.cli.options import (
    COMPRESS,
    FILE,
    JSON,
    OUT,
    THREADS,
    Number,
    TableChoice,
    TableHint,
    check_out,
    plan_of,
)
from gbdnn.cli.output import echo_json, echo_rows

if TYPE_CHECKING:
    from gbdnn.speech.recogniser import Recogniser
    from gbdnn.speech.training import Data
    from gbdnn.training import Result, Trainer

__all__ = ["train"]

SHOWN = 5  # bad utterances that are named
ONLY_RNNT = ("predictor", "size", "combine", "augment")
ONLY_HYBRID = ("lexicon", "words", "states", "realignments")


@click.command()
@click.argument("manifest", type=FILE)
@click.option("--out", type=OUT, required=True, help="Model file to write.")
@click.option("--kind", type=click.Choice(["rnnt", "hybrid"]), default="rnnt", show_default=True,
              help="rnnt: a transducer that writes characters; hybrid: a network for the states of "
              "hidden Markov models, and a lexicon.")  # fmt: skip
@click.option("--dev", type=FILE, help="Manifest that is not trained on; default: every 20th "
              "utterance is held out. The best epoch on it is kept.")  # fmt: skip
@click.option("--init", type=FILE, help="Go on from this recogniser, with its front end, "
              "characters and layers.")  # fmt: skip
@click.option("--encoder", default="blstm 96, blstm 96", show_default=True,
              help="Layers; 'lstm 256, lstm 256' reads one way, for streaming; 'reduce 2' between "
              "them halves the time steps.")  # fmt: skip
@click.option("--predictor", default="lstm 128", show_default=True, help="Layers of the labels.")
@click.option("--size", type=click.IntRange(1), default=128, show_default=True,
              help="Values that meet in the joint.")  # fmt: skip
@click.option("--combine", type=TableChoice("gbdnn.models.decodable", "COMBINATIONS"),
              default="add", show_default=True, help="How they meet.")  # fmt: skip
@click.option("--density", type=Number(0, 1, min_open=True), default=1.0, show_default=True,
              help="Of the recurrent layers' matrices; with --init that of all of the model's, to "
              "which it is pruned.")  # fmt: skip
@click.option("--growth", type=TableChoice("gbdnn.pruning", "GROWTHS", "none"), default="rigl",
              show_default=True, help="Below a density of 1: whether connections move in training, "
              "and how new ones are chosen.")  # fmt: skip
@click.option("--dropout", type=Number(0, 1, max_open=True), default=0.0, show_default=True,
              help="Rate behind each recurrent layer.")  # fmt: skip
@click.option("--plan", type=TableHint("gbdnn.quantization", "PLANS"), help="Afterwards train "
              "with rounded weights and activations, for whole numbers: a name, or a JSON "
              "file.")  # fmt: skip
@click.option("--epochs", type=click.IntRange(0), default=12, show_default=True,
              help="In floats, of a hybrid on each of its alignments; 0 with --init and "
              "--plan.")  # fmt: skip
@click.option("--plan-epochs", type=click.IntRange(1), default=4, show_default=True,
              help="With the plan.")  # fmt: skip
@click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True)
@click.option("--learning-rate", type=Number(0, min_open=True), default=2e-3, show_default=True,
              help="With the plan a quarter of it; falls to 0 as a cosine.")  # fmt: skip
@click.option("--augment/--no-augment", default=False, show_default=True,
              help="SpecAugment: parts of time and frequency are blotted out.")  # fmt: skip
@click.option("--patience", type=click.IntRange(1), help="End when the errors on --dev have not "
              "become fewer for so many epochs.")  # fmt: skip
@click.option("--rate", type=click.IntRange(1000), default=8000, show_default=True,
              help="Samples a second; other audio is resampled.")  # fmt: skip
@click.option("--bins", type=click.IntRange(4, 256), default=40, show_default=True)
@click.option("--deltas", is_flag=True, help="First and second differences besides.")
@click.option("--stack", type=click.IntRange(1, 100), default=3, show_default=True,
              help="Frames of 10 ms that are put into one.")  # fmt: skip
@click.option("--lexicon", type=FILE, help="Of a hybrid: lines of a word and its units; default: "
              "the words of the texts, spelled.")  # fmt: skip
@click.option("--words", type=FILE, multiple=True, help="Of a hybrid: a text or manifest whose "
              "words the lexicon has too, beside those of the training.")  # fmt: skip
@click.option("--states", type=click.IntRange(1, 16), default=1, show_default=True,
              help="Of a hybrid: states of each unit, and of silence.")  # fmt: skip
@click.option("--realignments", type=click.IntRange(0, 20), default=1, show_default=True,
              help="Of a hybrid: how often the trained network aligns anew and is trained "
              "on.")  # fmt: skip
@click.option("--skip-bad", is_flag=True, help="Pass over utterances that cannot be used.")
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the state after each epoch; default with --resume: OUT.state.",
)
@click.option("--resume", is_flag=True, help="Keep the state, and go on from the newest that is "
              "there.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@COMPRESS
@THREADS
@JSON
def train(manifest: Path, out: Path, as_json: bool, **given: Any) -> None:
    """Train a recogniser on MANIFEST and write it to one file.

    MANIFEST is JSON lines (audio_filepath, text) or a table with tabs; audio is what libsndfile
    reads. A recurrent neural network transducer writes the characters of the texts; front end,
    means and characters are in the file too.

    With --kind hybrid layers of --encoder score states of hidden Markov models, aligned from a flat
    start with Gaussians, then by the network itself; the lexicon is in the file.

    With --plan the float model is trained first, then trained on with roundings. `gbdnn speech
    decode OUT FILES` uses the result.
    """
    from gbdnn.cli.speech import hybrid

    check_out(out)
    if given["resume"] and given["checkpoint"] is None:
        given["checkpoint"] = Path(f"{out}.state")
    if given["kind"] == "hybrid":
        hybrid.refuse(ONLY_RNNT, "--kind rnnt", "--kind hybrid")
        record = hybrid.train(manifest, out, given, _trainers)
        for error in record["bad"][:SHOWN]:
            click.echo(f"passed over: {error}", err=True)
        echo_json(record) if as_json else hybrid.report(record)
        return
    hybrid.refuse(ONLY_HYBRID, "--kind hybrid", "--kind rnnt")
    from gbdnn.speech import training

    start, data, dev = _start(manifest, given)
    for part in (data, dev):
        _tell_bad(part)
    recogniser, results = start, {}
    augment = training.augmentation(start.front) if given["augment"] else None
    for name, trainer in _trainers(given, training.DENSE).items():
        recogniser, results[name] = training.train_recogniser(
            trainer, recogniser, data, dev, augment=augment, resume=given["resume"]
        )
    recogniser.save(out, compress=given["compress"])
    record = _record(recogniser, data, dev, results, out)
    if as_json:
        echo_json(record)
    else:
        _report(recogniser, record)


def _start(manifest: Path, given: dict[str, Any]) -> tuple[Recogniser, Data, Data]:
    """Return where training begins, and the data."""
    from dataclasses import replace

    from gbdnn.cli.speech.hybrid import split
    from gbdnn.speech.data import FrontEnd
    from gbdnn.speech.recogniser import Recogniser
    from gbdnn.speech.training import new_recogniser, read_data

    said, held = split(manifest, given["dev"])
    init = None if given["init"] is None else Recogniser.load(given["init"])
    if init is None:
        shape = {name: given[name] for name in ("rate", "bins", "deltas", "stack")}
        front = FrontEnd(**shape, skip=given["stack"])
    else:
        front = replace(init.front, mean=None, deviation=None)
    options: dict[str, Any] = {"skip_bad": given["skip_bad"], "progress": True}
    characters = None if init is None else init.vocabulary.characters
    data = read_data(said, front, characters=characters, **options, name="training audio")
    if init is None:
        names = ("encoder", "predictor", "size", "combine", "density", "dropout")
        init = new_recogniser(data, front, **{name: given[name] for name in names},
                              rng=given["seed"])  # fmt: skip
    characters = init.vocabulary.characters
    dev = read_data(held, front, characters=characters, **options, name="development audio")
    return init, data, dev


def _tell_bad(data: Data) -> None:
    for error in data.bad[:SHOWN]:
        click.echo(f"passed over: {error}", err=True)
    if len(data.bad) > SHOWN:
        click.echo(f"passed over: {len(data.bad) - SHOWN} more", err=True)


def _trainers(given: dict[str, Any], dense: tuple[str, ...]) -> dict[str, Trainer]:
    """Return the settings of the two trainings, in floats and with the plan.

    Parameters
    ----------
    given : dict
        The options.
    dense : tuple of str
        Patterns of the weights that stay dense.
    """
    from gbdnn.pruning import sparsifier
    from gbdnn.training import EarlyStopping, Trainer

    method, sparse = None, given["density"] < 1
    if sparse and given["init"] is not None:
        method = sparsifier("magnitude", sparsity=1 - given["density"], exclude=dense)
    elif sparse and given["growth"] != "none":
        method = sparsifier("rigl", growth=given["growth"], exclude=dense)

    def settings(name: str, epochs: int, rate: float) -> dict[str, Any]:
        patience = given["patience"] or epochs
        folder = given["checkpoint"]
        return {
            "epochs": epochs, "learning_rate": rate, "batch_size": given["batch_size"],
            "schedule": "cosine", "clip_norm": 5.0, "rng": given["seed"], "progress": True,
            "threads": given["threads"], "early_stopping": EarlyStopping(patience=patience),
            "checkpoint": None if folder is None else folder / name,
        }  # fmt: skip

    found = {}
    if given["epochs"]:
        own = settings("float", given["epochs"], given["learning_rate"]) | {"sparsifier": method}
        if sparse and given["init"] is not None:
            own["early_stopping"] = None  # the best epoch may be one before the pruning's end
        found["float"] = Trainer(**own)
    if given["plan"]:
        found["plan"] = Trainer(
            **settings("plan", given["plan_epochs"], given["learning_rate"] / 4),
            quantization=plan_of(given["plan"]),
        )
    if not found:
        raise click.UsageError("--epochs 0 without --plan: there is nothing to do")
    return found


def _record(
    recogniser: Recogniser, data: Data, dev: Data, results: dict[str, Result], out: Path
) -> dict[str, Any]:
    from gbdnn.cli.trained import kept

    total = recogniser.model.summary().total
    return {
        "out": str(out), "bytes": out.stat().st_size, "utterances": data.count,
        "dev_utterances": dev.count, "bad": [str(error) for error in (*data.bad, *dev.bad)],
        "characters": recogniser.vocabulary.characters, "weights": total["nnz"],
        "density": total["density"], "streams": recogniser.model.streams,
        "trainings": {
            name: {**kept(result), "stopped": result.stopped, "epochs": len(result.history)}
            for name, result in results.items()
        },
    }  # fmt: skip


def _report(recogniser: Recogniser, record: dict[str, Any]) -> None:
    click.echo(str(recogniser.model.summary()))
    rows = {"utterances": f"{record['utterances']:,}, {record['dev_utterances']:,} held out"}
    if record["bad"]:
        rows["passed over"] = f"{len(record['bad']):,}"
    for name, found in record["trainings"].items():
        errors = 1 - found.get("validation_score", 0)
        rows[f"{name}, epoch {found.get('epoch', 0) + 1} of {found['epochs']}"] = (
            f"{found.get('validation_loss', 0):.3f} nats an utterance, "
            f"{errors:.2%} of the characters wrong, held out"
        )
    rows["file"] = f"{record['out']}, {record['bytes']:,} bytes"
    rows["streaming"] = "yes" if record["streams"] else "no: the encoder reads both ways"
    echo_rows("recogniser", rows)

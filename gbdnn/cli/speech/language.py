"""`gbdnn speech lm`: n-grams and networks of characters, trained on a text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from gbdnn.cli.options import FILE, JSON, OUT, Number, check_out
from gbdnn.cli.output import echo_json, echo_rows
from gbdnn.cli.speech.hybrid import refuse
from gbdnn.errors import InputError

__all__ = ["language"]

ONLY_CHARACTERS = ("kind", "layers", "density", "epochs", "learning_rate", "characters")
PLAIN = " 'abcdefghijklmnopqrstuvwxyz"


@click.command("lm")
@click.argument("text", type=FILE)
@click.option("--out", type=OUT, required=True, help="Model file to write.")
@click.option("--kind", type=click.Choice(["ngram", "lstm"]), default="ngram", show_default=True)
@click.option(
    "--order",
    type=click.IntRange(1, 20),
    default=6,
    show_default=True,
    help="Of the n-gram: characters that a probability depends on, and itself.",
)
@click.option(
    "--layers",
    default="embedding 32, lstm 128",
    show_default=True,
    help="Of the network, as `gbdnn train --layers` has them.",
)
@click.option(
    "--density",
    type=Number(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="Of the network's recurrent matrices.",
)
@click.option("--epochs", type=click.IntRange(1), default=20, show_default=True)
@click.option("--learning-rate", type=Number(0, min_open=True), default=2e-3, show_default=True)
@click.option("--dev", type=FILE, help="Text that is not trained on; its perplexity is shown.")
@click.option("--characters", help="Default: those of the text and of plain words (a-z, ', blank).")
@click.option("--recogniser", type=FILE, help="A hybrid recogniser: an n-gram of its words, of "
              "order 1 or 2 (default); lines with other words do not count.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@JSON
def language(
    text: Path, out: Path, kind: str, order: int, layers: str, density: float, epochs: int,
    learning_rate: float, dev: Path | None, characters: str | None, recogniser: Path | None,
    seed: int, as_json: bool,
) -> None:  # fmt: skip
    """Train a language model on TEXT: a sentence a line, or a manifest's texts.

    It is one of characters, for RNN-T recognisers, or of the words of a hybrid --recogniser.

    Used beside a recogniser, `gbdnn speech decode MODEL FILES --lm LM`; a bigram of the training's
    transcripts (--order 2) as --source-lm is the low-order density ratio.
    """
    from gbdnn.speech import language as models
    from gbdnn.speech.data import Vocabulary
    from gbdnn.speech.data.manifest import read_texts
    from gbdnn.training import Trainer

    check_out(out)
    texts, held_out = read_texts(text), [] if dev is None else read_texts(dev)
    if recogniser is not None:
        refuse(ONLY_CHARACTERS, "language models of characters", "one of words")
        source = click.get_current_context().get_parameter_source("order")
        chosen = 2 if source == ParameterSource.DEFAULT else order
        _words(recogniser, out, chosen, texts, held_out, as_json)
        return
    every = Vocabulary.of([PLAIN, *texts, *held_out])
    vocabulary = every if characters is None else Vocabulary(characters)
    if kind == "ngram":
        model = models.ngram_lm(texts, vocabulary, order=order)
    else:
        trainer = Trainer(
            epochs=epochs, batch_size=64, learning_rate=learning_rate, schedule="cosine",
            clip_norm=1.0, rng=seed, progress=True,
        )  # fmt: skip
        model = models.recurrent_lm(
            texts, vocabulary, layers=layers, density=density, trainer=trainer, held_out=held_out
        )
    model.save(out)
    record = {"out": str(out), "kind": kind, "bytes": out.stat().st_size, "texts": len(texts),
              "characters": vocabulary.characters}  # fmt: skip
    for name, lines in (("perplexity", texts), ("dev_perplexity", held_out)):
        if lines:
            record[name] = model.perplexity(lines)
            record[f"{name}_of_words"] = model.perplexity(lines, unit="word")
    _tell(record, f"language model, {kind}", as_json)


def _words(
    recogniser: Path, out: Path, order: int, texts: list[str], held_out: list[str], as_json: bool
) -> None:
    """Write an n-gram of a recogniser's words, and say what it is."""
    from gbdnn.speech.hybrid import load_hybrid, word_lm

    if order > 2:
        fix = "Leave it out: 2 is the default."
        raise InputError("--order", "1 or 2: a hybrid's graph knows one word before", f"{order}",
                         fix)  # fmt: skip
    lexicon = load_hybrid(recogniser).lexicon
    known = set(lexicon.words)
    used, tried = ([line for line in lines if known.issuperset(line.split())]
                   for lines in (texts, held_out))  # fmt: skip
    if not used:
        expected = f"a line of the recogniser's {len(known)} words alone"
        raise InputError("TEXT", expected, "none")
    model = word_lm(used, lexicon, order=order)
    model.save(out)
    record = {"out": str(out), "kind": "words", "bytes": out.stat().st_size, "texts": len(used),
              "words": len(known), "passed_over": len(texts) - len(used)}  # fmt: skip
    for name, lines in (("perplexity", used), ("dev_perplexity", tried)):
        if lines:
            record[f"{name}_of_words"] = model.perplexity(lines, lexicon)
    _tell(record, f"language model, words, order {order}", as_json)


def _tell(record: dict[str, Any], title: str, as_json: bool) -> None:
    """Print a record."""
    if as_json:
        echo_json(record)
        return
    rows = {"texts": f"{record['texts']:,}", "file": f"{record['out']}, {record['bytes']:,} bytes"}
    if record.get("passed_over"):
        rows["passed over"] = f"{record['passed_over']:,} lines with other words"
    for name, shown in (("perplexity", "perplexity, text"), ("dev_perplexity", "perplexity, dev")):
        if (words := record.get(f"{name}_of_words")) is not None:
            characters = f"{record[name]:.3f} a character, " if name in record else ""
            rows[shown] = f"{characters}{words:.3g} a word"
    echo_rows(title, rows)

"""`gbdnn speech lm`: n-grams and networks of characters, trained on a text."""

from __future__ import annotations

from pathlib import Path

import click

from gbdnn.cli.options import FILE, JSON, OUT, Number, check_out
from gbdnn.cli.output import echo_json, echo_rows

__all__ = ["language"]

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
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@JSON
def language(
    text: Path, out: Path, kind: str, order: int, layers: str, density: float, epochs: int,
    learning_rate: float, dev: Path | None, characters: str | None, seed: int, as_json: bool,
) -> None:  # fmt: skip
    """Train a language model of characters on TEXT: a sentence a line, or a manifest's texts.

    Used beside a recogniser, `gbdnn speech decode MODEL FILES --lm LM`; a bigram of the training's
    transcripts (--order 2) as --source-lm is the low-order density ratio.
    """
    from gbdnn.speech import language as models
    from gbdnn.speech.data import Vocabulary
    from gbdnn.speech.data.manifest import read_texts
    from gbdnn.training import Trainer

    check_out(out)
    texts, held_out = read_texts(text), [] if dev is None else read_texts(dev)
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
    if as_json:
        echo_json(record)
        return
    rows = {"texts": f"{len(texts):,}", "file": f"{out}, {record['bytes']:,} bytes"}
    for name, shown in (("perplexity", "perplexity, text"), ("dev_perplexity", "perplexity, dev")):
        if name in record:
            words = record[f"{name}_of_words"]
            rows[shown] = f"{record[name]:.3f} a character, {words:.3g} a word"
    echo_rows(f"language model, {kind}", rows)

"""`gbdnn speech demo`: the whole way in minutes, and the commands to go on."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gbdnn.cli.options import JSON, OUT, THREADS
from gbdnn.cli.output import echo_json

if TYPE_CHECKING:
    from gbdnn.speech.demo import Row

__all__ = ["demo"]


@click.command()
@click.option("--out", type=OUT, default=Path("speech-demo"), show_default=True,
              help="Folder for all that is made.")  # fmt: skip
@click.option("--utterances", type=click.IntRange(20), default=2500, show_default=True)
@click.option("--tested", type=click.IntRange(1), default=60, show_default=True,
              help="Recordings in each of the two tests.")  # fmt: skip
@click.option("--encoder", default="blstm 96, blstm 96", show_default=True,
              help="'lstm 192, lstm 192' reads one way, for streaming.")  # fmt: skip
@click.option("--epochs", type=click.IntRange(1), default=10, show_default=True)
@click.option("--plan-epochs", type=click.IntRange(1), default=2, show_default=True)
@THREADS
@JSON
def demo(out: Path, as_json: bool, **given: Any) -> None:
    """Make synthetic speech, train a recogniser, take it to 4 bits, decode, and print a table.

    Minutes on two cores. Stopped and called again it goes on where it was. All speech is
    synthetic: the figures show what quantization and language models do, not how well real speech
    is recognised.
    """
    from gbdnn.speech.demo import PLAN, Settings
    from gbdnn.speech.demo import demo as run

    rows = run(out, Settings(**given), say=lambda text: click.echo(text, err=True))
    if as_json:
        echo_json({"out": str(out), "plan": PLAN, "rows": [asdict(row) for row in rows]})
        return
    _report(rows, out)


def _report(rows: list[Row], out: Path) -> None:
    from gbdnn.summary import text_table

    head = [
        "model",
        "language model",
        "file bytes",
        "matched WER",
        "target WER",
        "real-time factor",
    ]
    table = [
        [row.model, row.lm, f"{row.nbytes:,}"]
        + [_rate(row.errors.get(name)) for name in ("test-matched", "test-target")]
        + [f"{row.real_time:.3f}"]
        for row in rows
    ]
    smaller = rows[0].nbytes / rows[-1].nbytes
    click.echo(f"""
{text_table([head, *table], left=2)}

Errors of words in percent, with 95 % intervals. Synthetic speech, 8 kHz, mu-law, noise of 5 to
20 dB; matched: voices that training had not; target: telephone numbers, dates and times, which the
recogniser was not trained on and the language model was. int4 is {smaller:.1f} times smaller.
The real-time factor is of one thread, beam 8, from samples to text.

To go on:
  gbdnn speech decode {out}/int4.gbdnn {out}/corpus/test-target.jsonl --lm {out}/target.lm \\
    --source-lm {out}/source.lm --tune {out}/corpus/dev-target.jsonl
  gbdnn speech train {out}/corpus/train.jsonl --dev {out}/corpus/dev.jsonl --out sparse.gbdnn \\
    --density 0.2 --plan fasoli2022
  gbdnn speech train YOUR.jsonl --init {out}/float.gbdnn --out yours.gbdnn
  gbdnn speech train {out}/corpus/train.jsonl --encoder 'lstm 192, lstm 192' --out stream.gbdnn
  arecord -t raw -f S16_LE -r 8000 -c 1 | gbdnn speech decode stream.gbdnn --stream -""")


def _rate(found: dict[str, float] | None) -> str:
    if found is None:
        return ""
    return "{:.1f} ({:.1f}-{:.1f})".format(*(100 * found[k] for k in ("rate", "low", "high")))

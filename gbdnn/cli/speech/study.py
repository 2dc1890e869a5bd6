"""`gbdnn speech study`: the claims of the papers, each as a check, with its verdict."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from gbdnn.cli.options import JSON, OUT, THREADS, Number
from gbdnn.cli.output import echo_json

__all__ = ["study"]


def _numbers(kind: type) -> Any:
    def parsed(context: Any, option: Any, given: str) -> tuple[Any, ...]:
        try:
            return tuple(kind(part) for part in given.split(",") if part.strip())
        except ValueError:
            raise click.BadParameter("numbers with commas between them", context, option) from None

    return parsed


def _say(text: str) -> None:
    click.echo(f"{time.strftime('%H:%M:%S')}  {text}", err=True)


@click.command()
@click.option("--out", type=OUT, required=True, help="Folder for all that is made; what it has is "
              "not made again.")  # fmt: skip
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True,
              help="How many times recognisers are trained.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="The first.")
@click.option("--utterances", type=click.IntRange(20), default=4000, show_default=True,
              help="For training.")  # fmt: skip
@click.option("--tested", type=click.IntRange(1), default=220, show_default=True,
              help="Recordings in each test.")  # fmt: skip
@click.option("--tuned", type=click.IntRange(1), default=40, show_default=True,
              help="Recordings for the weights of language models.")  # fmt: skip
@click.option("--snr", type=(Number(), Number()), default=(15.0, 30.0), show_default=True,
              metavar="LEAST LARGEST", help="Signal to noise in training, dB.")  # fmt: skip
@click.option("--accents", type=click.IntRange(1, 7), default=2, show_default=True,
              help="In training and tests.")  # fmt: skip
@click.option("--variants", type=click.IntRange(1, 54), default=44, show_default=True,
              help="Speakers in training.")  # fmt: skip
@click.option("--augment/--no-augment", default=True, show_default=True,
              help="SpecAugment in training.")  # fmt: skip
@click.option("--stack", type=click.IntRange(1, 100), default=4, show_default=True,
              help="Frames of 10 ms that are put into one.")  # fmt: skip
@click.option("--encoder", default="blstm 128, blstm 128", show_default=True)
@click.option("--epochs", type=click.IntRange(1), default=10, show_default=True, help="In floats.")
@click.option("--plan-epochs", type=click.IntRange(1), default=2, show_default=True,
              help="With roundings, from the floats.")  # fmt: skip
@click.option("--prune-epochs", type=click.IntRange(1), default=8, show_default=True,
              help="In which the floats are pruned.")  # fmt: skip
@click.option("--sparsities", default="0.8,0.9", show_default=True, callback=_numbers(float),
              help="All but the first with one seed only.")  # fmt: skip
@click.option("--beams", default="1,4,8,16", show_default=True, callback=_numbers(int),
              help="With language models.")  # fmt: skip
@click.option("--beam", type=click.IntRange(1), default=8, show_default=True,
              help="Of all other tests.")  # fmt: skip
@click.option("--only", "parts", multiple=True, metavar="PART",
              help="tests, fusion, sparse, quantizers, simulated, speed; or none: tables alone. "
              "Default: all.")  # fmt: skip
@THREADS
@JSON
def study(out: Path, parts: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Check the claims of the INT4 speech papers on synthetic speech; print claims and verdicts.

    Two or three hours on a core. Stopped and called again it goes on where it was. Rules were fixed
    before the first run; what fails is printed as failed. --only speed measures real-time factors:
    do that on a machine that does nothing else.
    """
    from gbdnn.speech.study import PARTS, Settings
    from gbdnn.speech.study import study as run

    chosen = [part for part in parts or PARTS if part != "none"]
    try:
        found = run(
            out, Settings(**given), parts=chosen, say=lambda text: click.echo(text, err=True)
        )
    except KeyboardInterrupt:
        click.echo(f"stopped; the same command goes on with what is in {out}", err=True)
        raise
    if as_json:
        echo_json({"out": str(out), "claims": [asdict(claim) for claim in found]})
        return
    for claim in found:
        click.echo(f"{claim.verdict:24}{claim.claim}\n{'':24}rule: {claim.rule}")
        if claim.found:
            click.echo(f"{'':24}found: {claim.found}")
    click.echo(f"\n{out}/tables.md has all tables, {out}/results.jsonl a row for each cell.")

"""The commands `gbdnn speech ...`: a file each, and an entry in this table."""

from __future__ import annotations

import click

from gbdnn.cli.lazy import LazyGroup

__all__ = ["COMMANDS", "speech"]

COMMANDS = {
    "decode": ("gbdnn.cli.speech.decode", "decode", "Print what recordings say."),
    "demo": ("gbdnn.cli.speech.demo", "demo", "Make speech, train, quantise, decode: minutes."),
    "lm": ("gbdnn.cli.speech.language", "language", "Train a language model on a text."),
    "make": ("gbdnn.cli.speech.corpus", "make", "Make a corpus of synthetic speech."),
    "prompts": ("gbdnn.cli.speech.corpus", "prompts", "Write manifests of telephone prompts."),
    "read": ("gbdnn.cli.speech.corpus", "read", "Let synthetic voices read a text."),
    "score": ("gbdnn.cli.speech.score", "score", "Count errors of words; compare recognisers."),
    "study": ("gbdnn.cli.speech.study", "study", "Check the claims of the INT4 speech papers."),
    "train": ("gbdnn.cli.speech.train", "train", "Train a recogniser on a manifest."),
}
"""Name: module, a click command in it, and a line of help."""


@click.group(cls=LazyGroup, table=COMMANDS)
def speech() -> None:
    """Speech recognition: data, models, decoding, scores.

    Needs packages that `pip install 'gbdnn[speech]'` installs.
    """

"""`gbdnn speech make`, `read` and `prompts`: synthetic speech, and recorded telephone prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gbdnn.cli.options import FILE, FOLDER, JSON, OUT, Number, options
from gbdnn.cli.output import echo_json

__all__ = ["make", "prompts", "read"]

voice_options = options(
    click.option("--utterances", type=click.IntRange(1), default=3000, show_default=True,
                 help="For training."),
    click.option("--rate", type=click.IntRange(4000, 48000), default=8000, show_default=True,
                 help="Samples a second."),
    click.option("--telephone/--no-telephone", default=True, show_default=True,
                 help="Through a line of 8 bits (mu-law)."),
    click.option("--snr", type=(Number(), Number()), default=(5.0, 20.0), show_default=True,
                 metavar="LEAST LARGEST", help="Signal to noise in dB."),
    click.option("--rooms", type=Number(0, 1), default=0.0, show_default=True,
                 help="Share of the utterances with reverberation."),
    click.option("--words", type=(click.IntRange(1, 50), click.IntRange(1, 50)), default=(3, 7),
                 show_default=True, metavar="LEAST LARGEST",
                 help="Of texts of words drawn at random."),
    click.option("--accents", type=click.IntRange(1, 7), default=4, show_default=True,
                 help="Accents in training; others are held out."),
    click.option("--variants", type=click.IntRange(1, 50), default=36, show_default=True,
                 help="Speakers in training; others are held out."),
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True),
)  # fmt: skip


@click.command()
@click.option("--out", type=OUT, required=True, help="Folder to write to.")
@click.option("--held-out", type=click.IntRange(1), default=200, show_default=True,
              help="In each of the other sets.")  # fmt: skip
@click.option("--target-texts", type=click.IntRange(0), default=5000, show_default=True,
              help="Lines of text of the target domain.")  # fmt: skip
@click.option("--digits", type=Number(0, 1), default=0.4, show_default=True,
              help="Share of the texts of words that are strings of digits.")  # fmt: skip
@voice_options
@JSON
def make(out: Path, as_json: bool, **given: Any) -> None:
    """Make a corpus of synthetic speech, with transcripts, held-out voices and two domains.

    The same options give the same files. Training texts are words drawn independently (the source
    domain); test-target and target.txt are telephone numbers, dates and times of the same words.
    test-shifted, by another engine, is made where flite is installed.
    """
    from gbdnn.speech.data import make_corpus, read_manifest
    from gbdnn.speech.data.corpus import CorpusPlan

    found = make_corpus(out, CorpusPlan(**given), progress=True)
    sets = {name: path for name, path in found.items() if path.suffix == ".jsonl"}
    record: dict[str, Any] = {}
    for name, path in sets.items():
        utterances = read_manifest(path)
        seconds = sum(utterance.duration or 0.0 for utterance in utterances)
        record[name] = {"path": str(path), "utterances": len(utterances), "seconds": seconds}
    lines = {name: str(path) for name, path in found.items() if name not in sets}
    if as_json:
        echo_json({"sets": record, "texts": lines})
        return
    for name, entry in record.items():
        minutes = entry["seconds"] / 60
        click.echo(f"{name:13} {entry['utterances']:6,} utterances  {minutes:7.1f} minutes")
    for name, text in lines.items():
        click.echo(f"{name:13} {text}")
    click.echo(f"next: gbdnn speech train {record['train']['path']} --out MODEL", err=True)


@click.command("read")
@click.argument("text", type=FILE)
@click.option("--out", type=OUT, required=True, help="Folder to write to.")
@click.option("--shuffled", type=Number(0, 1), default=0.0, show_default=True,
              help="Share of utterances of words in random order.")  # fmt: skip
@voice_options
def read(text: Path, out: Path, shuffled: float, **given: Any) -> None:
    """Let synthetic voices read TEXT, a file of lines or a manifest, and write a manifest.

    Many voices for few texts: --utterances may be many times the lines. For a recogniser that then
    goes on with recordings, `gbdnn speech train RECORDINGS --init MODEL`.
    """
    from gbdnn.speech.data import read_aloud
    from gbdnn.speech.data.corpus import CorpusPlan
    from gbdnn.speech.data.manifest import read_texts

    plan = CorpusPlan(**given)
    path = read_aloud(out, read_texts(text), plan, shuffled=shuffled, progress=True)
    click.echo(f"{path}: {plan.utterances:,} utterances")
    click.echo(f"next: gbdnn speech train {path} --out MODEL", err=True)


@click.command()
@click.option("--out", type=OUT, required=True, help="Folder to write the manifests to.")
@click.option("--sounds", type=FOLDER, help="Folder of recordings; default the installed ones.")
@click.option("--transcripts", type=FILE, help='Lines "NAME: text"; default the installed ones.')
@click.option("--words", type=FILE, help="Only prompts of the words in this text or manifest.")
@click.option(
    "--longest",
    type=Number(0, min_open=True),
    default=15.0,
    show_default=True,
    help="Seconds; longer prompts are left out.",
)
@click.option(
    "--test",
    type=Number(0, 1, max_open=True),
    default=0.2,
    show_default=True,
    help="Share of the texts that are for tests.",
)
@click.option(
    "--dev",
    type=Number(0, 1, max_open=True),
    default=0.0,
    show_default=True,
    help="Share of the other texts that are for development.",
)
@click.option(
    "--spliced",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Also so many sentences put together of recorded words.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@JSON
def prompts(
    out: Path, sounds: Path | None, transcripts: Path | None, words: Path | None, longest: float,
    test: float, dev: float, spliced: int, seed: int, as_json: bool,
) -> None:  # fmt: skip
    """Write manifests of recorded telephone prompts: prompts-train.jsonl and prompts-test.jsonl.

    Real speech of one person at 8 kHz, from Debian's packages asterisk-core-sounds-en and
    asterisk-core-sounds-en-wav (CC-BY-SA 3.0). No text is in two of them. With --dev also
    prompts-dev.jsonl, to choose epochs and weights with; with --spliced also
    prompts-spliced.jsonl: words of the corpus of `gbdnn speech make`, recorded one by one, and put
    together as telephone systems do; their audio goes into a folder of --out.
    """
    from gbdnn.errors import InputError
    from gbdnn.speech.data import splice, split, telephone_prompts, write_manifest
    from gbdnn.speech.data.manifest import read_texts

    known = None if words is None else set(" ".join(read_texts(words)).split())
    found = telephone_prompts(sounds, transcripts, words=known, longest=longest)
    if not found:
        raise InputError("--words", "words of at least one prompt", "none of them")
    out.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {}
    parts = dict(zip(("train", "test"), split(found, test, seed), strict=True))
    if dev:
        parts["train"], parts["dev"] = split(parts["train"], dev, seed)
    if spliced:
        parts["spliced"] = splice(out / "audio" / "spliced", found, spliced, seed)
    for name, part in parts.items():
        path = out / f"prompts-{name}.jsonl"
        write_manifest(path, part)
        seconds = sum(utterance.duration or 0.0 for utterance in part)
        record[name] = {"path": str(path), "utterances": len(part), "seconds": seconds}
    if as_json:
        echo_json({"sets": record})
        return
    for entry in record.values():
        minutes = entry["seconds"] / 60
        click.echo(f"{entry['path']}: {entry['utterances']:,} prompts, {minutes:.1f} minutes")

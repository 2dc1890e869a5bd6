"""`gbdnn speech decode`: text of recordings, with words' times, as files, manifests or a stream."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gbdnn.cli.options import FILE, THREADS, Number
from gbdnn.cli.output import printable
from gbdnn.errors import DataUnavailableError, InputError

if TYPE_CHECKING:
    from gbdnn.decoding import Decoder, Fusion
    from gbdnn.speech.data import FrontEnd, Utterance
    from gbdnn.speech.decoding import Heard
    from gbdnn.speech.recogniser import Recogniser, RecogniserSession
    from gbdnn.speech.tuning import Trial

__all__ = ["decode"]

MANIFESTS = (".json", ".jsonl", ".tsv")
STDIN = "-"


@click.command()
@click.argument("model", type=FILE)
@click.argument("inputs", nargs=-1, required=True)
@click.option("--beam", type=click.IntRange(1), default=8, show_default=True,
              help="Hypotheses that are kept; 1 is greedy.")  # fmt: skip
@click.option("--search", default="alsd", show_default=True,
              type=click.Choice(["alsd", "greedy", "tsd"]))  # fmt: skip
@click.option("--lm", type=FILE, help="Language model beside the recogniser, of gbdnn speech lm; "
              "of a hybrid one made with --recogniser.")  # fmt: skip
@click.option("--source-lm", type=FILE, help="One of the training's transcripts, whose share is "
              "taken out.")  # fmt: skip
@click.option("--fusion", "kind", type=click.Choice(["shallow", "density-ratio", "ilme", "lodr"]),
              help="Default: density-ratio with --source-lm, else shallow.")  # fmt: skip
@click.option("--lm-weight", type=Number(0), help="Default .3, of a hybrid recogniser 1.")
@click.option("--source-weight", type=Number(0), default=0.2, show_default=True)
@click.option("--bonus", type=Number(), default=0.0, show_default=True,
              help="Of each character, of a hybrid recogniser of each word, in nats.")  # fmt: skip
@click.option("--prior-scale", type=Number(0), default=1.0, show_default=True,
              help="Of a hybrid recogniser: weight of its states' priors.")  # fmt: skip
@click.option("--tune", type=FILE, help="Manifest of development data: weights and bonus are "
              "chosen with it.")  # fmt: skip
@click.option("--tune-utterances", type=click.IntRange(1), default=100, show_default=True,
              help="So many of it.")  # fmt: skip
@click.option("--stream", is_flag=True, help="Take the audio in parts of an eighth of a second; "
              "what is heard so far goes to standard error.")  # fmt: skip
@click.option("--skip-bad", is_flag=True, help="Pass over recordings that cannot be used.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each recording, "
              "with the words' times: a manifest, for gbdnn speech score.")  # fmt: skip
@THREADS
def decode(
    model: Path, inputs: tuple[str, ...], skip_bad: bool, stream: bool, as_json: bool,
    threads: int | None, **given: Any,
) -> None:  # fmt: skip
    """Print what recordings say.

    INPUTS are audio files, or a manifest, or - for raw samples on standard input: 16 bits, little
    end first, at the model's rate, as `ffmpeg -i FILE -f s16le -ac 1 -ar 8000 -` writes them.

    The real-time factor is the time from samples to text by the length of the audio; with texts in
    the manifest the errors are counted too. Both go to standard error.
    """
    from gbdnn.speech.data.loading import BadUtterance
    from gbdnn.speech.decoding import load_samples

    chosen = _chosen(model, given, stream, threads)
    if inputs == (STDIN,):
        _decode_stdin(chosen, as_json)
        return
    said, heard = [], []
    for utterance in _utterances(inputs):
        try:
            samples = load_samples(utterance, chosen.front)
        except BadUtterance as error:
            if not skip_bad:
                raise
            click.echo(f"passed over: {error}", err=True)
            continue
        found = chosen.recognise(samples)
        said.append(utterance.text)
        heard.append(found)
        _echo(str(utterance.audio), found, as_json, several=len(inputs) > 1 or bool(said[:-1])
              or utterance.origin != "")  # fmt: skip
    _tell(said, heard)


@dataclass(frozen=True)
class _Chosen:
    """What a recogniser of either kind does with samples.

    Attributes
    ----------
    front : FrontEnd
    recognise : callable
        From the samples of a recording to what was `Heard`.
    session : callable or None
        Returns a session for samples that come in parts; None: they are collected.
    """

    front: FrontEnd
    recognise: Callable[[Any], Heard]
    session: Callable[[], RecogniserSession] | None = None


def _chosen(model: Path, given: dict[str, Any], stream: bool, threads: int | None) -> _Chosen:
    """Return what was asked for, of a recogniser of either kind."""
    from gbdnn.cli.speech import hybrid
    from gbdnn.speech.decoding import recognise
    from gbdnn.speech.files import load_recogniser
    from gbdnn.speech.recogniser import Recogniser

    loaded = load_recogniser(model)
    if not isinstance(loaded, Recogniser):
        best = hybrid.decoder_of(loaded, given, threads)
        assert loaded.front is not None
        return _Chosen(loaded.front, lambda samples: hybrid.heard(best, samples, threads))
    hybrid.refuse(("prior_scale",), "hybrid recognisers", "an RNN-T")
    given["lm_weight"] = 0.3 if given["lm_weight"] is None else given["lm_weight"]
    decoder = _decoder(loaded, given)
    if stream:
        loaded.session(decoder)  # refuses what cannot stream, before audio is read

    def whole(samples: Any) -> Heard:
        return recognise(loaded, decoder, samples, stream=stream, partial=_shower(stream),
                         threads=threads)  # fmt: skip

    return _Chosen(loaded.front, whole, partial(loaded.session, decoder) if stream else None)


def _decoder(recogniser: Recogniser, given: dict[str, Any]) -> Decoder:
    """Return the search that was asked for."""
    settings = {"search": given["search"], "beam": given["beam"]}
    if given["lm"] is None:
        for name in ("source_lm", "kind", "tune"):
            if given[name] is not None:
                option = "fusion" if name == "kind" else name.replace("_", "-")
                raise click.UsageError(f"--{option} needs --lm")
        return recogniser.decoder(**settings)
    return recogniser.decoder(**settings, fusion=_fusion(recogniser, given))


def _fusion(recogniser: Recogniser, given: dict[str, Any]) -> Fusion:
    from gbdnn.speech import decoding
    from gbdnn.speech.data import read_manifest
    from gbdnn.speech.language import load_lm
    from gbdnn.speech.training import read_data

    models = [
        None if given[name] is None else load_lm(given[name]).for_vocabulary(recogniser.vocabulary)
        for name in ("lm", "source_lm")
    ]
    kind = given["kind"] or ("shallow" if models[1] is None else "density-ratio")
    begin = decoding.fusion(
        recogniser, kind, *models, weight=given["lm_weight"],  # type: ignore[arg-type]
        source_weight=given["source_weight"], bonus=given["bonus"],
    )  # fmt: skip
    if given["tune"] is None:
        return begin
    said = read_manifest(given["tune"])[: given["tune_utterances"]]
    data = read_data(said, recogniser.front, progress=True, name="development audio")

    def report(trial: Trial) -> None:
        click.echo(f"{_numbers(trial.fusion)}: {trial.rate:.2%} of the words wrong", err=True)

    best = decoding.tuned(recogniser, begin, data.frames, data.texts, beam=given["beam"],
                          report=report)  # fmt: skip
    click.echo(f"chosen: {_numbers(best.fusion)}", err=True)
    return best.fusion


def _numbers(found: Fusion) -> str:
    source = f" --source-weight {found.source_weight:g}" if found.source else ""
    return f"--lm-weight {found.weight:g}{source} --bonus {found.bonus:g}"


def _utterances(inputs: tuple[str, ...]) -> Iterator[Utterance]:
    """Yield recordings: those of manifests, and files."""
    from gbdnn.speech.data import Utterance, read_manifest

    for name in inputs:
        path = Path(name)
        if name == STDIN:
            raise click.UsageError("- stands alone")
        if path.name.removesuffix(".gz").endswith(MANIFESTS):
            yield from read_manifest(path)
        elif not path.is_file():
            raise DataUnavailableError(name, "an audio file or a manifest", "no such file")
        else:
            yield Utterance(path, "")


def _decode_stdin(chosen: _Chosen, as_json: bool) -> None:
    """Recognise raw samples from standard input; a stream while they come."""
    import time

    import numpy as np

    from gbdnn.speech.decoding import BLOCK, Heard

    source: Any = sys.stdin.buffer
    rate, left = chosen.front.rate, b""
    blocks = iter(lambda: source.read1(2 * (rate // BLOCK)), b"")
    session = None if chosen.session is None else chosen.session()
    show, kept, count, spent = _shower(session is not None), [], 0, 0.0
    for block in blocks:
        if not count and block[:4] in (b"RIFF", b"fLaC", b"OggS"):
            fix = f"Pipe it through ffmpeg -i - -f s16le -ac 1 -ar {rate} -, or give the file."
            raise InputError("standard input", "raw samples of 16 bits", f"{block[:4]!r}", fix)
        whole = left + block
        left = whole[len(whole) // 2 * 2 :]
        samples = np.frombuffer(whole[: len(whole) // 2 * 2], "<i2").astype(np.float32) / 32768
        count += len(samples)
        if session is None:
            kept.append(samples)
        elif len(samples):
            begin = time.perf_counter()
            found = session.accept(samples)
            spent += time.perf_counter() - begin
            if show is not None:
                show(found)
    if session is None:
        every = np.concatenate(kept) if kept else np.zeros(0, np.float32)
        heard = chosen.recognise(every)
    else:
        begin = time.perf_counter()
        found = session.finish()
        heard = Heard(found, count / rate, spent + time.perf_counter() - begin)
    _echo(STDIN, heard, as_json, several=False)
    _tell([""], [heard])


def _shower(stream: bool) -> Any:
    """Return what shows partial results on a terminal; None: nothing does."""
    if not (stream and sys.stderr.isatty()):
        return None
    last = ""

    def show(found: Any) -> None:
        nonlocal last
        if found.text != last:
            last = found.text
            click.echo(f"\r\x1b[K{printable(last)[-100:]}", err=True, nl=False)

    return show


def _echo(name: str, heard: Heard, as_json: bool, *, several: bool) -> None:
    if sys.stderr.isatty():
        click.echo("\r\x1b[K", err=True, nl=False)
    found = heard.transcript
    if as_json:
        words = [{"word": w.text, "start": round(w.start, 3), "end": round(w.end, 3)}
                 for w in found.words]  # fmt: skip
        record = {
            "audio_filepath": name, "text": found.text, "duration": round(heard.audio, 3),
            "words": words, "score": round(found.score, 4),
            "log_probability": round(found.log_probability, 4),
            "seconds": round(heard.seconds, 4),
        }  # fmt: skip
        click.echo(json.dumps(record))
    else:
        click.echo(f"{name}\t{found.text}" if several else found.text)


def _tell(said: list[str], heard: list[Heard]) -> None:
    """Say how fast it was, and how good where that is known."""
    from gbdnn.speech.scoring import score

    if not heard:
        raise InputError("inputs", "a recording that can be used", "none")
    audio, seconds = (sum(getattr(one, name) for one in heard) for name in ("audio", "seconds"))
    text = f"{len(heard):,} recordings, {audio:.1f} s of audio in {seconds:.2f} s"
    click.echo(f"{text}: real-time factor {seconds / audio:.4f}", err=True)
    if any(said):
        pairs = [(a, b.transcript.text) for a, b in zip(said, heard, strict=True) if a]
        found = score(*(list(part) for part in zip(*pairs, strict=True))).record
        counts = ", ".join(f"{found[name]} {name}"
                           for name in ("substitutions", "deletions", "insertions"))  # fmt: skip
        click.echo(f"errors of words: {found['rate']:.2%} ({found['low']:.2%} to "
                   f"{found['high']:.2%}): {counts}; {found['words']} words", err=True)  # fmt: skip

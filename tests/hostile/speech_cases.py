"""Hostile audio, manifests and language models: name -> (function, expected class or None)."""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from safetensors.numpy import save_file

from gbdnn.errors import (
    DataUnavailableError,
    DtypeError,
    FileFormatError,
    InputError,
    NonFiniteError,
    ShapeError,
)
from gbdnn.files.tensors import read_tensors, write_tensors
from gbdnn.models import recurrent
from gbdnn.speech.data import (
    BadUtterance,
    ClippedAudioWarning,
    FrontEnd,
    Utterance,
    Vocabulary,
    add_noise,
    load_example,
    mu_law,
    read_audio,
    read_manifest,
    reverberate,
    write_audio,
)
from gbdnn.speech.files import load_recogniser
from gbdnn.speech.hybrid import Hybrid, Lexicon, load_word_lm, word_lm
from gbdnn.speech.language import load_lm, ngram_lm

CASES: dict[str, tuple[Callable[[], Any], type[Exception] | None]] = {}
TONE = (0.3 * np.sin(np.arange(8000) * 0.7)).astype(np.float32)


def case(name: str, expected: type[Exception] | None) -> Any:
    def put(function: Any) -> Any:
        def inside() -> Any:
            with tempfile.TemporaryDirectory() as folder:
                return function(Path(folder))

        CASES[name] = (inside, expected)
        return function

    return put


def wav(**changed: Any) -> bytes:
    """Return a WAV file of `TONE` in 16 bits, with some fields of its header changed."""
    data = (TONE * 32767).astype("<i2").tobytes()
    fields = {"riff": 36 + len(data), "format": 1, "channels": 1, "rate": 8000, "bits": 16,
              "data": len(data)} | changed  # fmt: skip
    block = fields["channels"] * fields["bits"] // 8 % (1 << 16)
    head = struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", fields["riff"], b"WAVE", b"fmt ", 16, fields["format"],
        fields["channels"], fields["rate"], fields["rate"] * block % (1 << 32), block,
        fields["bits"], b"data", fields["data"],
    )  # fmt: skip
    return head + data


def put(folder: Path, content: bytes, name: str = "a.wav") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


# -- audio -----------------------------------------------------------------------------------------

for title, content, error in (
    ("audio as it should be", wav(), None),
    ("audio: empty", b"", FileFormatError),
    ("audio: one byte", b"R", FileFormatError),
    ("audio: text", b"this is no audio\n" * 99, FileFormatError),
    ("audio: zeros", bytes(4000), FileFormatError),
    ("audio: header alone", wav(data=0)[:44], FileFormatError),
    ("audio: header cut", wav()[:30], FileFormatError),
    ("audio: half of it missing", wav()[:8000], FileFormatError),
    ("audio: one sample missing", wav()[:-2], FileFormatError),
    ("audio: written to a pipe, no sizes", wav(riff=0xFFFFFFFF, data=0xFFFFFFFF), None),
    ("audio: no channel", wav(channels=0), FileFormatError),
    ("audio: 65,535 channels", wav(channels=65535), FileFormatError),
    ("audio: rate 0", wav(rate=0), FileFormatError),
    ("audio: rate 1", wav(rate=1), FileFormatError),
    ("audio: rate 4 GHz", wav(rate=0xFFFFFFFF), FileFormatError),
    ("audio: 0 bits", wav(bits=0), FileFormatError),
    ("audio: unknown codec", wav(format=0x1234), FileFormatError),
):
    CASES[title] = (
        lambda content=content: case_of_bytes(content),  # type: ignore[misc]
        error,
    )


def case_of_bytes(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = read_audio(put(Path(folder), content), 8000)
        assert np.allclose(found, TONE, atol=1e-4)


@case("audio: missing", DataUnavailableError)
def _(folder: Path) -> None:
    read_audio(folder / "none.wav", 8000)


@case("audio: a folder", DataUnavailableError)
def _(folder: Path) -> None:
    read_audio(folder, 8000)


@case("audio: a pipe", DataUnavailableError)
def _(folder: Path) -> None:
    os.mkfifo(folder / "pipe.wav")
    read_audio(folder / "pipe.wav", 8000)


@case("audio: NaN", NonFiniteError)
def _(folder: Path) -> None:
    samples = TONE.copy()
    samples[5] = np.nan
    soundfile.write(folder / "a.wav", samples, 8000, subtype="FLOAT")
    read_audio(folder / "a.wav", 8000)


@case("audio: infinity", NonFiniteError)
def _(folder: Path) -> None:
    soundfile.write(folder / "a.wav", np.full(9, np.inf, np.float32), 8000, subtype="FLOAT")
    read_audio(folder / "a.wav", 8000)


@case("audio: not scaled", InputError)
def _(folder: Path) -> None:
    soundfile.write(folder / "a.wav", TONE * 32768, 8000, subtype="FLOAT")
    read_audio(folder / "a.wav", 8000)


@case("audio: two different channels", ShapeError)
def _(folder: Path) -> None:
    soundfile.write(folder / "a.wav", np.stack([TONE, -TONE], axis=1), 8000)
    read_audio(folder / "a.wav", 8000)


@case("audio: channel that is not there", InputError)
def _(folder: Path) -> None:
    read_audio(put(folder, wav()), 8000, channel=1)


@case("audio: MP3 cut", FileFormatError)
def _(folder: Path) -> None:
    soundfile.write(folder / "a.mp3", np.tile(TONE, 3), 8000)
    content = (folder / "a.mp3").read_bytes()
    read_audio(put(folder, content[: len(content) // 2], "b.mp3"), 8000)


@case("audio: FLAC cut", FileFormatError)
def _(folder: Path) -> None:
    soundfile.write(folder / "a.flac", TONE, 8000)
    content = (folder / "a.flac").read_bytes()
    read_audio(put(folder, content[: len(content) // 2], "b.flac"), 8000)


@case("audio: FLAC of an absurd length", FileFormatError)
def _(folder: Path) -> None:
    soundfile.write(folder / "a.flac", TONE, 8000)
    content = bytearray((folder / "a.flac").read_bytes())
    content[21:26] = bytes([content[21] | 0x0F, 0xFF, 0xFF, 0xFF, 0xFF])  # 2^36 - 1 samples
    try:
        read_audio(put(folder, bytes(content)), 8000)
    except MemoryError as error:  # which memory is free depends on the machine
        raise FileFormatError("a", "b", str(error)) from None


@case("samples: whole numbers", DtypeError)
def _(folder: Path) -> None:
    write_audio(folder / "a.wav", np.zeros(9, np.int16), 8000)


@case("samples: none for a front end", InputError)
def _(folder: Path) -> None:
    FrontEnd()(np.zeros(0, np.float32))


@case("noise: silence and nothing stay so", None)
def _(folder: Path) -> None:
    for count in (0, 1, 100):
        zeros = np.zeros(count, np.float32)
        for found in (add_noise(zeros, 10, 0), reverberate(zeros, 8000, 0.1, 0), mu_law(zeros)):
            assert np.array_equal(found, zeros)


@case("noise: NaN", InputError)
def _(folder: Path) -> None:
    add_noise(TONE, float("nan"), 0)


@case("clipped audio is a warning", ClippedAudioWarning)
def _(folder: Path) -> None:
    import warnings

    write_audio(folder / "a.wav", TONE * 9, 8000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            read_audio(folder / "a.wav", 8000)
        except ClippedAudioWarning as warning:  # with the parts that the runner looks for
            warning.argument = warning.expected = warning.got = str(warning)  # type: ignore[attr-defined]
            raise


# -- manifests -------------------------------------------------------------------------------------

LINE = b'{"audio_filepath": "a.wav", "text": "one"}\n'
for title, content in {
    "empty": b"",
    "blank lines": b"\n\n  \n",
    "half a line": LINE + LINE[:20],
    "a list": b"[1, 2]\n",
    "a list behind a line": LINE + b"[1, 2]\n",
    "deep": b'{"a": ' * 100_000,
    "no audio": b'{"text": "one"}\n',
    "audio is a number": b'{"audio_filepath": 3, "text": "one"}\n',
    "audio without name": b'{"audio_filepath": "", "text": "one"}\n',
    "audio with a zero byte": b'{"audio_filepath": "a\\u0000b", "text": "one"}\n',
    "text is null": b'{"audio_filepath": "a.wav", "text": null}\n',
    "no text": b'{"audio_filepath": "a.wav"}\n',
    "duration NaN": b'{"audio_filepath": "a.wav", "text": "x", "duration": NaN}\n',
    "duration true": b'{"audio_filepath": "a.wav", "text": "x", "duration": true}\n',
    "duration below 0": b'{"audio_filepath": "a.wav", "text": "x", "duration": -1}\n',
    "speaker is a list": b'{"audio_filepath": "a.wav", "text": "x", "speaker": []}\n',
    "one column": b"a.wav one two\n",
    "five columns": b"a\tb\t1\td\te\n",
    "a duration in words": b"a.wav\tone\tlong\n",
    "Latin-1": "a.wav\tfünf\n".encode("latin-1"),
    "a line of 2 MB": b"a.wav\t" + b"x" * (2 << 20),
    "a WAV file": wav(),
}.items():

    def read(content: bytes = content) -> None:
        with tempfile.TemporaryDirectory() as folder:
            read_manifest(put(Path(folder), content, "m.jsonl"))

    CASES[f"manifest: {title}"] = (read, FileFormatError)


# -- utterances ------------------------------------------------------------------------------------


@case("utterance: characters outside the vocabulary", BadUtterance)
def _(folder: Path) -> None:
    path = put(folder, wav())
    load_example(Utterance(path, "zwölf", origin="m, line 7"), FrontEnd(), Vocabulary("wolf z"))


@case("utterance: no text", BadUtterance)
def _(folder: Path) -> None:
    load_example(Utterance(put(folder, wav()), ""), FrontEnd(), Vocabulary("a"))


@case("utterance: text without audio", BadUtterance)
def _(folder: Path) -> None:
    load_example(Utterance(folder / "none.wav", "a"), FrontEnd(), Vocabulary("a"))


@case("utterance: shorter than a window", BadUtterance)
def _(folder: Path) -> None:
    write_audio(folder / "a.wav", TONE[:100], 8000)
    load_example(Utterance(folder / "a.wav", "a"), FrontEnd(), Vocabulary("a"))


# -- language models -------------------------------------------------------------------------------


def changed_ngram(folder: Path, name: str, change: Callable[[Any], Any]) -> None:
    """Write an n-gram model with an array or entry changed, digests right, and load it."""
    texts = ["one two", "two one", "one one"]
    ngram_lm(texts, Vocabulary.of(texts), order=3).save(folder / "a.lm")
    tensors, metadata = read_tensors(folder / "a.lm")
    part: Any = tensors if name in tensors else metadata
    part[name] = change(part[name])
    write_tensors(folder / "b.lm", tensors, metadata)
    model = load_lm(folder / "b.lm")
    model.log_probabilities(texts)


def at(place: int, value: float) -> Callable[[Any], Any]:
    def change(array: Any) -> Any:
        array[place] = value
        return array

    return change


for name, change, why in (
    ("order", lambda order: order, "as it should be"),
    ("targets", at(3, 10**6), "to a row that is not there"),
    ("targets", at(3, -1), "to a row below 0"),
    ("targets", lambda array: array[:-1], "one too few"),
    ("lower", at(2, 2), "a circle"),
    ("lower", at(2, -7), "below -1"),
    ("lower", at(0, 1), "of row 0"),
    ("indices", at(1, 10**6), "beyond the vocabulary"),
    ("indptr", at(2, 10**8), "beyond the end"),
    ("indptr", at(1, 2), "row 0 without some labels"),
    ("values", at(0, np.nan), "NaN"),
    ("values", at(0, 3.0), "a probability above 1"),
    ("backoffs", at(1, np.inf), "infinite"),
    ("backoffs", lambda array: array[:, None], "of two dimensions"),
    ("start", lambda start: 10**9, "beyond the end"),
    ("start", lambda start: "x", "text"),
    ("blank", lambda blank: 1, "not 0"),
    ("order", lambda order: 0, "0"),
    ("version", lambda version: "7.0", "newer"),
    ("language_model", lambda said: {"characters": "abc"}, "fewer characters"),
    ("language_model", lambda said: {"characters": "aa"}, "characters twice"),
    ("language_model", lambda said: None, "nothing said"),
):
    wrong = None if why == "as it should be" else FileFormatError
    case(f"n-gram: {name}, {why}", wrong)(
        lambda folder, name=name, change=change: changed_ngram(folder, name, change)  # type: ignore[misc]
    )


# -- hybrid recognisers and their language models --------------------------------------------------


def changed_words(folder: Path, change: Callable[[Any, Any], Any]) -> None:
    """Write an n-gram of words with something changed, digests right, load it, and use it."""
    lexicon = Lexicon.spelled(["ab", "ba", "cab"])
    word_lm(["ab ba", "cab ab"], lexicon).save(folder / "a.lm")
    tensors, metadata = read_tensors(folder / "a.lm")
    change(tensors, metadata)
    write_tensors(folder / "b.lm", tensors, metadata)
    load_word_lm(folder / "b.lm").for_lexicon(lexicon).log_probability([1, 2])


ENTRY = "language_model"
for title, change_words, expected in (
    ("as it should be", lambda t, m: None, None),
    ("words of another lexicon", lambda t, m: m[ENTRY].update(words=["x", "y", "z"]), InputError),
    ("words twice", lambda t, m: m[ENTRY].update(words=["ab", "ab", "cab"]), FileFormatError),
    ("numbers as words", lambda t, m: m[ENTRY].update(words=[1, 2, 3]), FileFormatError),
    ("a text as words", lambda t, m: m[ENTRY].update(words="abc"), FileFormatError),
    ("too few words", lambda t, m: m[ENTRY].update(words=["ab"]), FileFormatError),
    ("characters instead", lambda t, m: m.update({ENTRY: {"characters": "abc"}}), FileFormatError),
    ("order 3", lambda t, m: m.update(order=3), FileFormatError),
    ("targets beyond the rows", lambda t, m: t["targets"].__setitem__(2, 10**6), FileFormatError),
    ("NaN", lambda t, m: t["values"].__setitem__(0, np.nan), FileFormatError),
    ("another format", lambda t, m: m.update(format="gbdnn.model"), FileFormatError),
):
    case(f"n-gram of words: {title}", expected)(
        lambda folder, change=change_words: changed_words(folder, change)  # type: ignore[misc]
    )


def changed_hybrid(folder: Path, change: Callable[[Any], Any]) -> None:
    """Write a hybrid recogniser with its record changed, and load it as any recogniser."""
    front, lexicon = FrontEnd(bins=8, stack=1, skip=1), Lexicon.spelled(["ab", "ba"], states=1)
    network = recurrent("lstm 3, reduce 2", 8, lexicon.count)
    Hybrid(network, lexicon, np.full(lexicon.count, -2.0), front).save(folder / "a")
    tensors, metadata = read_tensors(folder / "a")
    change(metadata)
    write_tensors(folder / "b", tensors, metadata)
    assert isinstance(load_recogniser(folder / "b"), Hybrid)


for title, change_hybrid, expected in (
    ("as it should be", lambda m: None, None),
    ("nothing said", lambda m: m.update(hybrid=None), FileFormatError),
    ("a list", lambda m: m.update(hybrid=[1]), FileFormatError),
    ("more words", lambda m: m["hybrid"]["lexicon"]["entries"].append(["c", ["c"]]),
     FileFormatError),
    ("10**9 states", lambda m: m["hybrid"]["lexicon"].update(states=10**9), FileFormatError),
    ("priors above 1", lambda m: m["hybrid"].update(log_priors=[1.0] * 5), FileFormatError),
    ("too few priors", lambda m: m["hybrid"].update(log_priors=[-1.0]), FileFormatError),
    ("frames of more values", lambda m: m["hybrid"]["front"].update(stack=7), FileFormatError),
    ("a front end at 1 Hz", lambda m: m["hybrid"]["front"].update(rate=1), FileFormatError),
    ("time reduced by 10**9", lambda m: m["layers"][1].update(factor=10**9),
     FileFormatError),
    ("time reduced by 3", lambda m: m["layers"][1].update(factor=3), FileFormatError),
    ("time reduced by a text", lambda m: m["layers"][1].update(factor="2"),
     FileFormatError),
):  # fmt: skip
    case(f"hybrid: {title}", expected)(
        lambda folder, change=change_hybrid: changed_hybrid(folder, change)  # type: ignore[misc]
    )


@case("language model: of another tool", FileFormatError)
def _(folder: Path) -> None:
    save_file({"a": np.zeros(3, np.float32)}, folder / "a.lm")
    load_lm(folder / "a.lm")

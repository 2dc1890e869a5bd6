"""Manifests: which audio has which text, one utterance a line, as JSON or tab-separated."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gbdnn.errors import FileFormatError
from gbdnn.files.disk import atomic_write, open_binary
from gbdnn.types import FilePath

__all__ = ["Utterance", "paired_texts", "read_manifest", "read_texts", "write_manifest"]

COLUMNS = ("audio_filepath", "text", "duration", "speaker")
NAMES = {"path": "audio_filepath", "sentence": "text", **{name: name for name in COLUMNS}}
"""What a table's header or a JSON object may call a column; others are passed over."""
LINE_LIMIT = 1 << 20


@dataclass(frozen=True)
class Utterance:
    """A recording and what is said in it.

    Parameters
    ----------
    audio : Path
    text : str
        May be empty: silence, or a recording that is to be decoded.
    duration : float, optional
        In seconds, as the manifest has it.
    speaker : str, optional
    origin : str
        File and line of the manifest, for messages; does not count in comparisons.
    """

    audio: Path
    text: str
    duration: float | None = None
    speaker: str | None = None
    origin: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        """What messages call the utterance: the audio, with file and line of the manifest."""
        return f"{self.origin}: {self.audio}" if self.origin else str(self.audio)


def read_manifest(path: FilePath) -> list[Utterance]:
    """Read a manifest; audio paths in it are relative to its folder.

    Parameters
    ----------
    path : path-like
        UTF-8, also compressed (.gz). Either JSON, one object a line with `audio_filepath`, `text`
        and perhaps `duration` and `speaker` (NeMo's convention), or tab-separated columns in this
        order, or in that of a header line with these names (or `path` and `sentence`, as Common
        Voice has them). Empty lines do not count.

    Raises
    ------
    DataUnavailableError
        The file cannot be read.
    FileFormatError
        With file and line: no JSON object, a column missing, text that is no text, a duration that
        is none; a manifest without an utterance. Whether the audio exists is not looked at.
    """
    path = Path(path)
    columns: list[str] | None = None
    found = []
    for number, line in _lines(path):
        place = f"{path}, line {number}"
        if columns is None:
            columns = [] if line.startswith("{") else _header(line)
            if columns and _header(line, given=True):
                continue
        entry = _of_table(line, columns, place) if columns else _of_json(line, place)
        found.append(_utterance(entry, path.parent, place))
    if not found:
        raise FileFormatError(str(path), "at least one utterance", "none")
    return found


def write_manifest(path: FilePath, utterances: Iterable[Utterance]) -> None:
    """Write a manifest in JSON lines; paths below its folder are written relative to it.

    Raises
    ------
    DataUnavailableError
        The file cannot be written; one that was there is as it was.
    """
    folder = Path(os.path.abspath(path)).parent
    with atomic_write(path) as file:
        for utterance in utterances:
            audio = Path(os.path.abspath(utterance.audio))
            below = audio.relative_to(folder) if audio.is_relative_to(folder) else audio
            entry: dict[str, Any] = {"audio_filepath": below.as_posix(), "text": utterance.text}
            for name in ("duration", "speaker"):
                if (value := getattr(utterance, name)) is not None:
                    entry[name] = value
            file.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")


def read_texts(path: FilePath) -> list[str]:
    """Return the texts of a manifest (.jsonl, .json, .tsv, perhaps .gz), or a file's lines.

    Raises
    ------
    DataUnavailableError, FileFormatError
    """
    if _is_manifest(path):
        return [utterance.text for utterance in read_manifest(path) if utterance.text]
    found = [line.strip() for _, line in _lines(Path(path))]
    if not found:
        raise FileFormatError(str(path), "at least one line of text", "none")
    return found


def paired_texts(reference: FilePath, hypothesis: FilePath) -> tuple[list[str], list[str]]:
    """Return what was said and what was heard, in the order of the reference.

    Two manifests are matched by their audio; else both must have as many lines.

    Raises
    ------
    DataUnavailableError, FileFormatError
    """
    if _is_manifest(reference) and _is_manifest(hypothesis):
        heard = {os.path.realpath(u.audio): u.text for u in read_manifest(hypothesis)}
        said = read_manifest(reference)
        names = [os.path.realpath(utterance.audio) for utterance in said]
        for name, utterance in zip(names, said, strict=True):
            if name not in heard:
                expected = f"the audio of {utterance.name}"
                raise FileFormatError(str(hypothesis), expected, "no such line")
        return [utterance.text for utterance in said], [heard[name] for name in names]
    parts = []
    for path in (reference, hypothesis):
        if _is_manifest(path):
            parts.append([utterance.text for utterance in read_manifest(path)])
        else:
            parts.append([line.strip() for _, line in _lines(Path(path), empty=True)])
    if len(parts[0]) != len(parts[1]):
        expected = f"{len(parts[0])} lines, as {reference}"
        raise FileFormatError(str(hypothesis), expected, f"{len(parts[1])}")
    return parts[0], parts[1]


def _is_manifest(path: FilePath) -> bool:
    return Path(path).name.removesuffix(".gz").endswith((".jsonl", ".json", ".tsv"))


def _lines(path: Path, *, empty: bool = False) -> Iterator[tuple[int, str]]:
    """Yield number and text of each line, unless it is empty."""
    with open_binary(path) as file:
        number = 0
        while raw := file.readline(LINE_LIMIT + 1):
            number += 1
            place = f"{path}, line {number}"
            if len(raw) > LINE_LIMIT:
                got = "a longer one"
                raise FileFormatError(place, f"a line of at most {LINE_LIMIT:,} bytes", got)
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                got = f"the byte {raw[error.start]:#04x} at {error.start}"
                raise FileFormatError(place, "text in UTF-8", got) from None
            if empty or line.strip():
                yield number, line


def _header(line: str, *, given: bool = False) -> list[str]:
    """Return a table's columns, by its first line; with `given` only if that is a header."""
    cells = [cell.strip().lower() for cell in line.split("\t")]
    if {NAMES.get(cell) for cell in cells} >= {"audio_filepath", "text"}:
        return [NAMES.get(cell, "") for cell in cells]
    return [] if given else list(COLUMNS)


def _of_table(line: str, columns: list[str], place: str) -> dict[str, Any]:
    cells = line.split("\t")
    if len(cells) > len(columns) or len(cells) < 2:
        expected = f"2 to {len(columns)} columns between tabs, audio and text at least"
        raise FileFormatError(place, expected, f"{len(cells)}")
    entry: dict[str, Any] = dict(zip(columns, cells, strict=False))
    if entry.get("duration"):
        try:
            entry["duration"] = float(entry["duration"])
        except ValueError:
            got = repr(entry["duration"])
            raise FileFormatError(place, "a duration in seconds", got) from None
    return {name: value for name, value in entry.items() if name == "text" or value != ""}


def _of_json(line: str, place: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        got = f"what is none ({str(error)[:80]})"
        raise FileFormatError(place, "a JSON object", got) from None
    if not isinstance(entry, dict):
        raise FileFormatError(place, "a JSON object", type(entry).__name__)
    return {NAMES[name]: value for name, value in entry.items() if name in NAMES}


def _utterance(entry: dict[str, Any], folder: Path, place: str) -> Utterance:
    for name in ("audio_filepath", "text", "speaker"):
        value = entry.get(name, "" if name == "speaker" else None)
        if not isinstance(value, str) and not (name == "speaker" and value is None):
            got = "none" if value is None else f"{value!r:.80}"
            raise FileFormatError(place, f"{name!r} as text", got)
    if not entry["audio_filepath"] or "\0" in entry["audio_filepath"]:
        got = repr(entry["audio_filepath"])
        raise FileFormatError(place, "the name of an audio file", got)
    duration = entry.get("duration")
    if duration is not None:
        number = isinstance(duration, int | float) and not isinstance(duration, bool)
        if not number or not 0 <= duration < math.inf:
            raise FileFormatError(place, "a duration in seconds", f"{duration!r:.80}")
        duration = float(duration)
    speaker = entry.get("speaker") or None
    audio = folder / entry["audio_filepath"]
    return Utterance(audio, entry["text"], duration, speaker, place)

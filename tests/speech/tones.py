"""Recordings in which each character is a tone, and a gap a blank: speech that tests can make."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

RATE = 8000
TONES = {"a": 500, "b": 900, "c": 1500, "d": 2400}


def spoken(text: str, rng: np.random.Generator) -> Any:
    """Return samples: 120 to 180 ms for each character, with noise."""
    parts = []
    for character in text:
        count = int(RATE * rng.uniform(0.12, 0.18))
        time = np.arange(count) / RATE
        envelope = np.minimum(1, np.minimum(np.arange(count), np.arange(count)[::-1]) / 200)
        tone = np.sin(2 * np.pi * TONES[character] * time) if character in TONES else 0 * time
        parts.append(0.3 * envelope * tone)
    samples = np.concatenate(parts)
    return (samples + 0.01 * rng.standard_normal(len(samples))).astype(np.float32)


def texts(count: int, seed: int = 0) -> list[str]:
    """Return texts of one or two words of two or three characters, no character twice in a row."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        words: list[str] = []
        for _ in range(rng.integers(1, 3)):
            word = ""
            while len(word) < rng.integers(2, 4):
                character = "abcd"[rng.integers(4)]
                word += character if word[-1:] != character else ""
            words.append(word)
        found.append(" ".join(words))
    return found


def corpus(folder: Path, count: int, seed: int = 0, name: str = "train") -> Path:
    """Write recordings and a manifest."""
    from gbdnn.speech.data import write_audio

    rng = np.random.default_rng([seed, 1])
    lines = []
    for number, text in enumerate(texts(count, seed)):
        audio = folder / f"{name}-{number}.wav"
        write_audio(audio, spoken(text, rng), RATE)
        lines.append(json.dumps({"audio_filepath": audio.name, "text": text}))
    path = folder / f"{name}.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path

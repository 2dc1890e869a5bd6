"""pocketsphinx on a manifest: `python -m benchmarks.pocketsphinx MANIFEST > HEARD.jsonl`.

For `gbdnn speech score MANIFEST HEARD.jsonl`. Its own English models, of 16 kHz, to which audio is
resampled; nothing is tuned.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from gbdnn.speech.data import read_audio, read_manifest

RATE = 16000


def main(manifest: Path) -> None:
    """Print an object with `audio_filepath` and `text` for each recording."""
    from pocketsphinx import Decoder

    decoder = Decoder(samprate=RATE, logfn="/dev/null")
    for utterance in read_manifest(manifest):
        samples = read_audio(utterance.audio, RATE)
        decoder.start_utt()
        whole = (np.clip(samples, -1, 1) * 32767).astype("<i2")
        decoder.process_raw(whole.tobytes(), full_utt=True)
        decoder.end_utt()
        found = decoder.hyp()
        text = found.hypstr if found else ""
        print(json.dumps({"audio_filepath": str(utterance.audio), "text": text}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Data for speech: manifests, audio, features, augmentation, synthetic speech and texts."""

from gbdnn.speech.data.audio import (
    ClippedAudioWarning,
    add_noise,
    mu_law,
    read_audio,
    reverberate,
    write_audio,
)
from gbdnn.speech.data.augment import spec_augment
from gbdnn.speech.data.corpus import make_corpus, splice, split, telephone_prompts
from gbdnn.speech.data.features import FrontEnd, FrontEndSession
from gbdnn.speech.data.loading import BadUtterance, Example, examples, load_example
from gbdnn.speech.data.manifest import Utterance, read_manifest, write_manifest
from gbdnn.speech.data.reading import read_aloud
from gbdnn.speech.data.vocabulary import Vocabulary

__all__ = [
    "BadUtterance", "ClippedAudioWarning", "Example", "FrontEnd", "FrontEndSession", "Utterance",
    "Vocabulary", "add_noise", "examples", "load_example", "make_corpus", "mu_law", "read_aloud",
    "read_audio", "read_manifest", "reverberate", "spec_augment", "splice", "split",
    "telephone_prompts", "write_audio", "write_manifest",
]  # fmt: skip

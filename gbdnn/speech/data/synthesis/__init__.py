"""Synthetic speech: espeak-ng by pip alone, and flite where it is installed."""

from gbdnn.speech.data.synthesis.espeak import ACCENTS, VARIANTS, Voice, synthesise, voices
from gbdnn.speech.data.synthesis.flite import flite, flite_voices

__all__ = ["ACCENTS", "VARIANTS", "Voice", "flite", "flite_voices", "synthesise", "voices"]

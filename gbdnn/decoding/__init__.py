"""Decoding: transducers by greedy and beam search, language models beside them, and HMMs."""

from gbdnn.decoding.decoder import SEARCHES, Decoder, Session
from gbdnn.decoding.fusion import Fusion, InternalLM
from gbdnn.decoding.hmm import Posteriors, forward_backward, viterbi
from gbdnn.decoding.ngram import NGram, train_ngram
from gbdnn.decoding.prefixes import Hypothesis
from gbdnn.decoding.protocols import LanguageModel, Transducer

__all__ = [
    "SEARCHES", "Decoder", "Fusion", "Hypothesis", "InternalLM", "LanguageModel", "NGram",
    "Posteriors", "Session", "Transducer", "forward_backward", "train_ngram", "viterbi",
]  # fmt: skip

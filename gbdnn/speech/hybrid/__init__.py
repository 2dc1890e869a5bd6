"""Hybrid recognisers: a network scores the states of hidden Markov models, Viterbi finds the words.

Features to BLSTM to a softmax over graphemes' states, trained by cross-entropy on alignments of its
own; decoding on one sparse matrix of lexicon and bigram, by max-plus products.
"""

from gbdnn.speech.hybrid.alignment import align, bootstrap
from gbdnn.speech.hybrid.decoder import HybridDecoder, Word
from gbdnn.speech.hybrid.graph import Graph, decoding_graph, transcript_graph
from gbdnn.speech.hybrid.language import WordLM, load_word_lm, word_lm
from gbdnn.speech.hybrid.lexicon import Lexicon, read_lexicon
from gbdnn.speech.hybrid.model import Hybrid, load_hybrid
from gbdnn.speech.hybrid.training import realigned, train_hybrid, tune_hybrid
from gbdnn.speech.hybrid.tuning import HybridTrial, tune_decoder

__all__ = [
    "Graph", "Hybrid", "HybridDecoder", "HybridTrial", "Lexicon", "Word", "WordLM", "align",
    "bootstrap", "decoding_graph", "load_hybrid", "load_word_lm", "read_lexicon", "realigned",
    "train_hybrid", "transcript_graph", "tune_decoder", "tune_hybrid", "word_lm",
]  # fmt: skip

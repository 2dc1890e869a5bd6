"""Recurrent neural network transducers (Graves 2012, arXiv:1211.3711; Graves et al. 2013).

For frames x_1 ... x_T and labels y_1 ... y_U, with y_0 the blank,

    h_t = encoder(x_1 ... x_T)_t        g_u = predictor(y_0 ... y_u)
    a_tu = tanh(h_t + g_u + b)          or, multiplicative, tanh(h_t * g_u + b)
    P(k | t, u) = softmax(joint(a_tu))_k

The last layers of encoder and predictor are the projections of the joint, W_e and W_p, and the
bias is the joint's own: then h_t = 0 means that the encoder says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from gbdnn import checks, machine
from gbdnn.errors import DtypeError, FileFormatError, GbdnnError, InputError, ShapeError, choose
from gbdnn.execution.streaming import State
from gbdnn.files.header import DAMAGED, check_version
from gbdnn.files.tensors import nbytes_of, write_tensors
from gbdnn.interchange.models import from_tensors, to_tensors
from gbdnn.layers import Layer
from gbdnn.models.decodable import COMBINATIONS, Decodable
from gbdnn.models.recurrent import recurrent
from gbdnn.network import Network, check_network
from gbdnn.summary import Summary
from gbdnn.types import Array, FilePath
from gbdnn.weights import Weight

__all__ = ["CHAINS", "Transducer", "transducer", "transducer_of"]

FORMAT, VERSION = "gbdnn.transducer", (1, 0)
CHAINS = ("encoder", "predictor", "joint")


@dataclass(frozen=True, eq=False)
class Transducer(Decodable):
    """Three chains of layers: encoder, predictor, and the joint's output.

    Parameters
    ----------
    encoder : Network
        Of frames to `size` values for each.
    predictor : Network
        Of labels, one feature that is a whole number, to `size` values.
    output : Network
        Of `size` values to the scores of the vocabulary; the chain "joint".
    bias : ndarray of float, shape (size,)
        "joint.bias".
    combine : str
        "add" or "multiply".
    blank : int
    metadata : dict
        Of text to anything that JSON can say; `save` writes it, `gbdnn.load` brings it back.

    Raises
    ------
    ShapeError, DtypeError, InputError
        If the parts do not fit together.
    """

    encoder: Network
    predictor: Network
    output: Network
    bias: Array
    combine: str = "add"
    blank: int = 0
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        choose("combine", self.combine, COMBINATIONS)
        for name, chain in self.chains.items():
            check_network(name, chain)
            if chain.dtype != self.encoder.dtype:
                raise DtypeError(name, f"{self.encoder.dtype}, as encoder", str(chain.dtype))
            if chain.one_row:
                raise InputError(name, "a result for each time step", "one for a sequence")
            if name != "encoder" and chain.time_factor > 1:
                fix = "Only the encoder may reduce time."
                raise InputError(name, "a result for each label", "one for some of them", fix)
        size = self.output.in_features
        for name in ("encoder", "predictor"):
            if self.chains[name].out_features != size:
                got = f"{self.chains[name].out_features}"
                raise ShapeError(name, f"{size} outputs, as the joint takes", got)
        if self.predictor.in_features != 1:
            expected = "an embedding first: one input, the label"
            raise ShapeError("predictor", expected, f"{self.predictor.in_features} inputs")
        bias = np.array(self.bias, self.dtype)
        if bias.shape != (size,) or not np.isfinite(bias).all():
            raise ShapeError("bias", f"{size} finite numbers", f"shape {bias.shape}")
        object.__setattr__(self, "bias", bias)
        if not 0 <= checks.count("blank", self.blank, 0) < self.vocabulary:
            raise InputError("blank", f"below {self.vocabulary}, the vocabulary", str(self.blank))
        object.__setattr__(self, "metadata", dict(self.metadata))

    # -- what it is made of ------------------------------------------------------------------------

    @property
    def chains(self) -> dict[str, Network]:
        """The three networks by the prefixes of their parameters' names."""
        return dict(zip(CHAINS, (self.encoder, self.predictor, self.output), strict=True))

    @property
    def in_features(self) -> int:
        """Values in a frame."""
        return self.encoder.in_features

    @property
    def vocabulary(self) -> int:
        """Labels, with the blank."""
        return self.output.out_features

    out_features = vocabulary

    @property
    def size(self) -> int:
        """Values that meet in the joint."""
        return self.output.in_features

    @property
    def dtype(self) -> np.dtype[Any]:
        """What it computes in."""
        return self.encoder.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of weights and biases."""
        return sum(chain.nbytes for chain in self.chains.values()) + self.bias.nbytes

    @property
    def streams(self) -> bool:
        """Frames may come in parts: no layer of the encoder needs all of them."""
        return not any(layer.needs_all_steps for layer in self.encoder.layers)

    @property
    def time_factor(self) -> int:
        """Frames of the input for each frame h of the encoder: T of them have ceil(T / it)."""
        return self.encoder.time_factor

    @property
    def named_layers(self) -> dict[str, Layer]:
        """All layers, by names such as "encoder.layers.0"."""
        return {
            f"{prefix}.{name}": layer
            for prefix, chain in self.chains.items()
            for name, layer in chain.named_layers.items()
        }

    @property
    def parameters(self) -> dict[str, Weight | Array]:
        """All that is learned, by names such as "encoder.layers.0.weight"; "joint.bias" last."""
        found: dict[str, Weight | Array] = {
            f"{prefix}.{name}": value
            for prefix, chain in self.chains.items()
            for name, value in chain.parameters.items()
        }
        return found | {"joint.bias": self.bias}

    @property
    def weights(self) -> dict[str, Weight]:
        """Those of `parameters` that are weights."""
        return {name: p for name, p in self.parameters.items() if isinstance(p, Weight)}

    def replaced(self, parameters: Mapping[str, Any]) -> Transducer:
        """Return the transducer with some parameters exchanged, by the names of `parameters`.

        Raises
        ------
        UnknownNameError
        """
        own: dict[str, dict[str, Any]] = {name: {} for name in CHAINS}
        bias = self.bias
        known = self.parameters
        for name, value in parameters.items():
            prefix, _, rest = choose("parameters", name, known).partition(".")
            if rest == "bias":
                bias = value
            else:
                own[prefix][rest] = value
        made = {name: chain.replaced(own[name]) for name, chain in self.chains.items()}
        return self._of(made, bias)

    def astype(self, dtype: npt.DTypeLike) -> Transducer:
        """Return the transducer in another float dtype."""
        return self._of({n: chain.astype(dtype) for n, chain in self.chains.items()}, self.bias)

    def _of(self, chains: Mapping[str, Network], bias: Array) -> Transducer:
        encoder, predictor, output = (chains[name] for name in CHAINS)
        return Transducer(encoder, predictor, output, bias, self.combine, self.blank, self.metadata)

    def summary(self, backend: str | None = None) -> Summary:
        """Return a table of all layers, see `Network.summary`; the note says bytes."""
        rows = []
        for prefix, chain in self.chains.items():
            found = chain.summary(backend).rows
            rows += [row | {"layer": f"{prefix}.{row['layer']}"} for row in found]
        note = f"{self.nbytes:,} bytes of parameters, {self.file_nbytes:,} bytes as a file"
        return Summary(tuple(rows), note)

    def __repr__(self) -> str:
        names = ", ".join(f"{name}={chain!r}" for name, chain in self.chains.items())
        return f"Transducer({names}, combine={self.combine!r})"

    # -- files -------------------------------------------------------------------------------------

    @property
    def file_nbytes(self) -> int:
        """Bytes of the file that `save` writes, not compressed: arrays and header, exactly."""
        return nbytes_of(*self._record())

    def save(self, path: FilePath, *, compress: bool = False) -> None:
        """Write the transducer to one safetensors file, which `gbdnn.load` reads.

        `compress` is that of `Network.save`.

        Raises
        ------
        DataUnavailableError, InputError, DtypeError
            See `Network.save`.
        """
        write_tensors(path, *self._record(), compress=compress)

    def _record(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return tensors and metadata of a file."""
        tensors: dict[str, Array] = {"joint.bias": self.bias}
        chains: dict[str, Any] = {}
        for prefix, chain in self.chains.items():
            own, said = to_tensors(chain.layers)
            tensors |= {f"{prefix}.{name}": array for name, array in own.items()}
            chains[prefix] = {key: value for key, value in said.items() if key != "versions"}
        made = {
            "format": FORMAT, "version": f"{VERSION[0]}.{VERSION[1]}", "chains": chains,
            "combine": self.combine, "blank": self.blank, "versions": machine.versions(),
        }  # fmt: skip
        taken = sorted(set(self.metadata) & set(made))
        if taken:
            got = ", ".join(taken)
            raise InputError("metadata", f"keys other than {', '.join(made)}", got)
        return tensors, {**self.metadata, **made}

    # -- decoding: what `gbdnn.decoding.Transducer` asks for ---------------------------------------

    def encode(self, X: Sequence[Array], *, threads: int | None = None) -> list[Array]:
        """Return h of each sequence of frames, shapes (ceil(time_i / time_factor), size).

        Parameters
        ----------
        X : list of ndarray, shapes (time_i, in_features)
        threads : int, optional
            Default all cores.
        """
        if not len(X):
            return []
        found: list[Array] = self.encoder.predict(list(X), threads=threads)
        return found

    def _step(self, x: Array, state: State | None) -> tuple[Array, State]:
        return self.predictor.step(x, state, threads=1)

    def _scores(self, met: Array) -> Array:
        scores: Array = self.output.predict(met, threads=1, check_finite=False)
        return scores

    def warm_up(self) -> None:
        """Do beforehand what only the first call does; see `Network.warm_up`."""
        for chain in self.chains.values():
            chain.warm_up()


def transducer(
    encoder: str,
    in_features: int,
    vocabulary: int,
    *,
    predictor: str = "lstm 128",
    embedding: int = 16,
    size: int = 128,
    combine: str = "add",
    density: float = 1.0,
    dropout: float = 0.0,
    dtype: npt.DTypeLike = np.float32,
    rng: np.random.Generator | int = 0,
) -> Transducer:
    """Return a transducer with random weights, in which a training begins.

    Parameters
    ----------
    encoder : str
        Layers such as "lstm 256, lstm 256", "blstm 96, blstm 96" or, with half as many frames
        for the second layer and the joint, "lstm 128, reduce 2, lstm 128", as `recurrent` takes
        them; the projection to `size` is added.
    in_features : int
        Values in a frame.
    vocabulary : int
        Labels, with the blank, which is 0.
    predictor : str
        Layers behind the embedding.
    embedding : int
        Values for a label.
    size : int
        Values that meet in the joint.
    combine : str
        "add" or "multiply".
    density : float
        Of the matrices of recurrent layers; above 0, at most 1. Projections, embedding and output
        are dense.
    dropout : float
        Rate behind each recurrent layer.
    dtype : float32 or float64
    rng : Generator or int

    Raises
    ------
    InputError, UnknownNameError

    Examples
    --------
    >>> from gbdnn.models import transducer
    >>> transducer("blstm 96, blstm 96", 120, 29).vocabulary
    29
    """
    rng = np.random.default_rng(rng)
    checks.count("vocabulary", vocabulary, 2)
    settings: dict[str, Any] = {
        "density": density, "dropout": dropout, "dtype": dtype, "rng": rng,
    }  # fmt: skip
    labels = f"embedding {checks.count('embedding', embedding)} {vocabulary}"
    return Transducer(
        recurrent(encoder, in_features, checks.count("size", size), **settings),
        recurrent(f"{labels}, {predictor}", 1, size, **settings),
        recurrent([], size, vocabulary, dtype=dtype, rng=rng),
        np.zeros(size),
        combine,
    )


def transducer_of(
    path: FilePath, tensors: dict[str, Array], metadata: dict[str, Any]
) -> Transducer:
    """Return a transducer from what a file holds; nothing in it is believed.

    Raises
    ------
    FileFormatError
    """
    check_version(path, metadata.get("version"), VERSION, "a transducer")
    said = metadata.get("chains")
    if not isinstance(said, dict) or said.keys() != set(CHAINS):
        raise FileFormatError(str(path), f"the chains {', '.join(CHAINS)}", "others", DAMAGED)
    bias = tensors.pop("joint.bias", None)
    chains = []
    for prefix in CHAINS:
        names = [name for name in tensors if name.startswith(f"{prefix}.")]
        own = {name.removeprefix(f"{prefix}."): tensors.pop(name) for name in names}
        record = said[prefix]
        if not isinstance(record, dict):
            raise FileFormatError(f"{path}, {prefix}", "a record", repr(record)[:60], DAMAGED)
        layers, _ = from_tensors(f"{path}, {prefix}", own, record)
        chains.append(layers)
    if tensors:
        got = f"{min(tensors)!r} besides"
        raise FileFormatError(str(path), "the tensors of its chains", got, DAMAGED)
    known = ("format", "version", "chains", "combine", "blank", "versions")
    user = {key: value for key, value in metadata.items() if key not in known}
    try:
        encoder, predictor, output = map(Network, chains)
        settings = metadata["combine"], metadata["blank"], user
        return Transducer(encoder, predictor, output, bias, *settings)  # type: ignore[arg-type]
    except GbdnnError as error:
        what = f"{path}, {error.argument}"
        raise FileFormatError(what, error.expected, error.got, DAMAGED) from None
    except (KeyError, TypeError, ValueError) as error:
        got = f"{type(error).__name__}: {error}"[:200]
        raise FileFormatError(str(path), "bias, combine and blank", got, DAMAGED) from None

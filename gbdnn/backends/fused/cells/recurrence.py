"""All time steps of an LSTM or a GRU in one compiled call, on one thread or several.

Some cells are a block of a phase of a job of `helpers`: see `steps`.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from gbdnn.backends.base import UNBOUNDED, Affine, aligned_empty
from gbdnn.backends.fused import helpers
from gbdnn.backends.fused.cells import steps
from gbdnn.backends.fused.cells.matrix import Matrix, adding
from gbdnn.backends.fused.cells.slices import CELLS
from gbdnn.backends.fused.helpers import BLOCKS, FUNCTION, PHASES, WORDS, address_of, words_of
from gbdnn.backends.recurrences import Scan, ScanGrad
from gbdnn.types import Array

__all__ = ["scan", "scan_grad"]

GATES = {"lstm": 4, "gru": 3}
SHARES = 4  # blocks for each participant: what is lost if the last one comes late
EDGE, EDGE_COLUMN = 0.1e-9, 0.055e-9  # about the seconds of an entry, and for each column
INTEGER = 0.4  # of it for an entry in whole numbers
GATE = 2e-9  # seconds of a cell's gates, for each column
WORTH = 8e-6  # seconds of a time step for each participant below which it is not asked
SHORT = 0.1  # seconds of a call: a Ctrl-C waits for its end
MOST = 4096  # time steps of a call: each has counters

_comparisons: WeakKeyDictionary[Any, dict[Any, helpers.Comparison]] = WeakKeyDictionary()
# arrays of a scan that go from step to step, and their words
MOVES = {"Z": steps.Z, "H": steps.H, "V": steps.V, "C": steps.C, "M": steps.M, "B": steps.B}


def scan(given: Scan, threads: int) -> bool:
    """Compute all time steps; False if a weight or an array does not suit. See `Backend.scan`."""
    gates = GATES.get(given.kind)
    if gates is None or not _suits(given, gates):
        return False
    u, p = given.recurrent, given.projection
    U, P = _matrix(u, gates), None if p is None else _matrix(p, 1)
    by_record = U is None or (p is not None and P is None)
    if (U is None and not _has_record(u)) or (p is not None and P is None and not _has_record(p)):
        return False
    if by_record and given.rounds is not None:
        return False  # where a kernel's rows lie is its own affair
    Z, width = given.Z, given.Z.shape[2]
    cells = Z.shape[1] // gates
    seconds = _seconds(given, cells)
    parts = _parts(seconds, threads, cells)
    blocks = 1 if parts == 1 else parts if by_record else SHARES * parts
    words = _words(given, gates)
    keep: list[Any] = [given]
    stages: list[tuple[int, int]] = []
    if U is not None:
        words |= {steps.U: U.address(width)}
        stages.append((steps.PRODUCTS_AND_GATES, U.blocks))
    else:
        words |= {steps.U_RECORD: _record(u, given.bias, Z, blocks, keep)}
        stages += [(steps.PRODUCTS, blocks), (steps.GATES_ALONE, -(-cells // CELLS))]
    if given.B is None and U is None:
        inner = aligned_empty(Z.shape[1] * width, Z.dtype)
        keep.append(inner)
        words |= {steps.B: address_of(inner), steps.B_STEP: 0}
    if P is not None:
        words |= {steps.P: P.address(width)}
        stages.append((steps.PROJECTION, P.blocks))
    elif p is not None:
        words |= {steps.P_RECORD: _record(p, None, Z, blocks, keep)}
        stages.append((steps.PROJECTION, blocks))
    _run(given, words, stages, parts, blocks, seconds, keep)
    return True


def scan_grad(given: ScanGrad, threads: int) -> bool:
    """Go back through all time steps; False if something does not suit."""
    forth = given.scan
    gates = GATES.get(forth.kind)
    arrays = [each for each in (given.dV, given.passes, given.dH) if each is not None]
    if gates is None or not _suits(forth, gates, *arrays):
        return False
    u, p = forth.recurrent, forth.projection
    if _matrix(u, gates) is None or (p is not None and _matrix(p, 1) is None):
        return False
    if not u.trained or any(each.shape != forth.V.shape for each in arrays):
        return False
    Z, width = forth.Z, forth.Z.shape[2]
    cells = Z.shape[1] // gates
    seconds = _seconds(forth, cells)
    parts = _parts(seconds, threads, cells)
    back = u.matrix(1, across=True)
    words, stages = _words(forth, gates), [(steps.GRADIENT, back.blocks)]
    state, direct, up = (aligned_empty(cells * width, Z.dtype) for _ in range(3))
    state[:] = 0
    words |= {
        steps.BACKWARD: 1, steps.U: back.address(width), steps.DC: address_of(state),
        steps.DIRECT: address_of(direct), steps.UP: address_of(up),
        steps.DV: address_of(given.dV), steps.RETURNS_ROUNDED: int(given.returns_rounded),
    }  # fmt: skip
    if p is not None:
        up_matrix = p.matrix(1, across=True)
        words |= {steps.P: up_matrix.address(width)}
        stages.append((steps.GATES_GRADIENT, up_matrix.blocks))
    for word, array in ((steps.PASSES, given.passes), (steps.DH, given.dH)):
        if array is not None:
            words[word] = address_of(array)
    blocks = 1 if parts == 1 else SHARES * parts
    _run(forth, words, stages, parts, blocks, seconds, [given, state, direct, up])
    return True


def _matrix(w: Any, gates: int) -> Matrix | None:
    """Return a weight as a matrix of `cells`, if it has that form."""
    found: Matrix | None = w.matrix(gates) if hasattr(w, "matrix") else None
    return found


def _has_record(w: Any) -> bool:
    """True for weights with a kernel of their own, and not in training."""
    return hasattr(w, "record") and not getattr(w, "trained", False)


def _record(w: Any, bias: Array | None, Z: Array, blocks: int, keep: list[Any]) -> int:
    """Return the address of the words of a weight's own kernel; what they refer to is in `keep`."""
    vector = np.zeros(1, Z.dtype) if bias is None else bias
    record = np.array(w.record(Affine(w, vector, UNBOUNDED), Z.shape[2], blocks), np.int64)
    keep += [vector, record]
    return address_of(record)


def _seconds(given: Scan, cells: int) -> float:
    """Return about the seconds of a time step on one thread."""
    width, seconds = given.Z.shape[2], cells * given.Z.shape[2] * GATE
    for w in (given.recurrent, given.projection):
        if w is not None:
            cost = 1.0 if hasattr(w, "matrix") else INTEGER
            seconds += w.edges * cost * (EDGE + EDGE_COLUMN * width)
    return float(seconds)


def _parts(seconds: float, threads: int, cells: int) -> int:
    return max(min(threads, int(seconds / WORTH), -(-cells // CELLS)), 1)


def _suits(given: Scan, gates: int, *more: Array) -> bool:
    """True if all arrays have their shapes, and compiled code can work on them by address."""
    (time, rows, width), dtype = given.Z.shape, given.recurrent.dtype
    out, cells = given.H.shape[1], rows // gates
    shapes = {"Z": (time, rows, width), "H": (time + 1, out, width), "V": (time, out, width)}
    if given.kind == "lstm":
        shapes |= {"C": (time + 1, cells, width), "M": (time, cells, width)}
    else:
        shapes |= {"B": (time, rows, width)}
    arrays = {name: getattr(given, name) for name in shapes}
    if any(array is None or array.shape != shapes[name] for name, array in arrays.items()):
        return False
    if width == 0 or time == 0 or rows % gates or given.recurrent.shape != (rows, out):
        return False
    if given.projection is None:
        if out != cells:
            return False
    elif given.projection.shape != (out, cells) or given.projection.dtype != dtype:
        return False
    return all(_plain(array, dtype) for array in (*arrays.values(), *more))


def _plain(array: Array, dtype: np.dtype[Any]) -> bool:
    """True for what compiled code can work on by address."""
    flags = array.flags
    return array.dtype == dtype and flags.c_contiguous and flags.aligned and flags.writeable


def _words(given: Scan, gates: int) -> dict[int, int]:
    """Return what both ways have in common."""
    Z = given.Z
    _, rows, width = Z.shape
    words = {
        steps.GATES: gates, steps.HIDDEN: rows // gates, steps.OUT: given.H.shape[1],
        steps.WIDTH: width, steps.ADD: adding(Z.dtype), steps.BEFORE: address_of(given.H),
        steps.B_STEP: rows * width * Z.itemsize,
    }  # fmt: skip
    for name, word in {**MOVES, "bias": steps.BIAS}.items():
        array = getattr(given, name)
        if array is not None:
            words[word] = address_of(array)
    if given.rounds is not None:
        step, low, high = np.array(given.rounds, np.float64).view(np.int64).tolist()
        words |= {steps.ROUNDS: 1, steps.LEVEL_STEP: step, steps.LOW: low, steps.HIGH: high}
    return words


def _run(
    given: Scan, words: dict[int, int], stages: list[tuple[int, int]], parts: int, blocks: int,
    seconds: float, keep: list[Any],
) -> None:  # fmt: skip
    """Run jobs of as many time steps as are short enough."""
    Z = given.Z
    time, _, width = Z.shape
    backward = steps.BACKWARD in words
    spare = aligned_empty(parts * (width + 64 // Z.itemsize), Z.dtype)
    spare[:] = 0
    words |= {steps.SPARE: address_of(spare), steps.STAGES: len(stages)}
    for number, (kind, total) in enumerate(stages):
        words |= {steps.STAGE + number: kind, steps.TOTAL + number: total}
    sizes = {word: getattr(given, name)[0].nbytes for name, word in MOVES.items()
             if getattr(given, name) is not None}  # fmt: skip
    own = (steps.DV, steps.PASSES, steps.DH)
    sizes |= {word: given.V[0].nbytes for word in own if word in words}
    chunk = max(min(int(SHORT / seconds), MOST), 1)
    found = _comparisons.setdefault(given.recurrent, {})
    comparison = found.setdefault((width, parts, backward), helpers.Comparison())
    for done in range(0, time, chunk):
        count = min(chunk, time - done)
        begin = time - done - count if backward else done
        now = words | {word: words[word] + begin * nbytes for word, nbytes in sizes.items()}
        now |= {steps.STEPS: count, steps.LATER: int(done > 0)}
        if begin and given.kind == "gru":
            now[steps.BEFORE] = address_of(given.V[begin - 1])
        record = np.zeros(steps.COUNT, np.int64)
        record[list(now)] = list(now.values())
        job = aligned_empty(words_of(count * len(stages), parts), np.int64)
        job[:WORDS] = 0
        job[FUNCTION], job[PHASES] = steps.participant(Z.dtype), count * len(stages)
        job[BLOCKS], job[steps.GIVEN] = blocks, address_of(record)
        held = (*keep, spare, record, job)
        helpers.run(job, address_of(job), parts, seconds * count, held, comparison)

"""The compiled side of `recurrence`: what is done to some cells in one time step, there and back.

A time step is one to three *stages*, each a phase of a job of `helpers`:

    there   products and gates of some cells; or, where a kernel of its own computes the products,
            these, then the gates; then the projection
    back    the gradient of h from the next step, and the gates of the same cells; with a
            projection the gates are a stage of their own behind it

Columns never meet. Addresses are int64; `recurrence` has checked every shape.
"""

# mypy: disable-error-code="attr-defined,call-arg,call-overload,no-untyped-call,no-untyped-def"

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import carray, float64, from_dtype, int64

from gbdnn.backends.fused import helpers
from gbdnn.backends.fused.cells.functions import (
    gru_gates,
    gru_gates_grad,
    lstm_gates,
    lstm_gates_grad,
)
from gbdnn.backends.fused.cells.slices import CELLS
from gbdnn.backends.fused.helpers import (
    BLOCKS,
    PHASES,
    WORDS,
    finished,
    inner,
    take,
    wait_for_phase,
)
from gbdnn.backends.fused.instructions import call, code_stamp, compiled_address, load, pointer

__all__ = ["COUNT", "GIVEN", "KINDS", "participant"]

GIVEN = 8  # the word of a job that has the address of the words below
# Arrays are those of `Scan` and `ScanGrad`, at the first of the job's steps; BEFORE is h before it,
# not rounded. ADD is `matrix.adding`. B is B_STEP bytes further at each step; UP takes P^T dV.
# LATER: there is a step behind the last one, whose gradients are known. STAGE and TOTAL have a word
# for each stage: what it does, and its blocks.
(BACKWARD, STAGES, GATES, STEPS, HIDDEN, OUT, WIDTH, ADD, U, P, U_RECORD, P_RECORD, SPARE, Z, B,
 B_STEP, H, C, M, V, BEFORE, BIAS, DV, PASSES, DH, RETURNS_ROUNDED, UP, DC, DIRECT, LATER, ROUNDS,
 LEVEL_STEP, LOW, HIGH) = range(34)  # fmt: skip
STAGE, TOTAL, COUNT = 34, 37, 40
KINDS = PRODUCTS_AND_GATES, PRODUCTS, GATES_ALONE, PROJECTION, GRADIENT, GATES_GRADIENT = range(6)
LSTM_GATES = 4


@inner
def _participate(job, me, real):
    """Take part in a job as number `me`."""
    word = carray(pointer(job), WORDS, int64)
    given = carray(pointer(word[GIVEN]), COUNT, int64)
    for phase in range(word[PHASES]):
        step, stage, done = phase // given[STAGES], phase % given[STAGES], 0
        total = given[TOTAL + stage]
        while True:
            block = take(job, phase, me)
            if block < 0:
                break
            first = block * total // word[BLOCKS]
            for each in range(first, (block + 1) * total // word[BLOCKS]):
                if given[BACKWARD]:
                    _back(word[GIVEN], step, given[STAGE + stage], each, me, real)
                else:
                    _forth(word[GIVEN], step, given[STAGE + stage], each, me, real)
            done += 1
        if done:
            finished(job, phase, done)
        wait_for_phase(job, phase)


@inner
def _forth(given, t, kind, block, me, real):
    """Do one block of a stage of time step t."""
    word = carray(pointer(given), COUNT, int64)
    width, size = word[WIDTH], np.int64(carray(pointer(0), 1, real).itemsize)
    pitch = width * size
    part, out = word[HIDDEN] * pitch, word[OUT] * pitch  # bytes of a gate and of h
    z, b = word[Z] + word[GATES] * part * t, word[B] + word[B_STEP] * t
    h, m, v = word[H] + out * t, word[M] + part * t, word[V] + out * t
    spare, at = word[SPARE] + me * (pitch + 64), block * CELLS * pitch
    if kind == PRODUCTS:
        call(load(word[U_RECORD], int64), (word[U_RECORD], block, h, b, width))
        return
    if kind == PROJECTION and word[P_RECORD]:
        call(load(word[P_RECORD], int64), (word[P_RECORD], block, m, v, width))
        return
    if kind == PROJECTION:
        count = min(CELLS, word[OUT] - block * CELLS) * width
        _fill(v + at, count, real)
        call(word[ADD], (word[P], block, m, v, width, spare))
    else:
        count = min(CELLS, word[HIDDEN] - block * CELLS) * width
        if word[GATES] == LSTM_GATES:
            if kind == PRODUCTS_AND_GATES:
                call(word[ADD], (word[U], block, h, z, width, spare))
            else:
                for gate in range(LSTM_GATES):
                    _add(b + gate * part + at, z + gate * part + at, count, real)
            c = word[C] + part * t + at
            z += at
            lstm_gates(z, z + part, z + 2 * part, z + 3 * part, c, c + part, m + at, count, real)
        else:
            if kind == PRODUCTS_AND_GATES:
                for gate in range(word[GATES]):
                    _spread(word[BIAS] + (gate * word[HIDDEN] + block * CELLS) * size,
                            b + gate * part + at, count, width, real)  # fmt: skip
                call(word[ADD], (word[U], block, h, b, width, spare))
            before = (word[BEFORE] if t == 0 else v - out) + at
            z, b = z + at, b + at
            gru_gates(z, z + part, z + 2 * part, b, b + part, b + 2 * part, before, v + at, count,
                      real)  # fmt: skip
        if word[P] or word[P_RECORD]:
            return
    if word[ROUNDS]:
        _round(given, v + at, h + out + at, count, real)


@inner
def _back(given, phase, kind, block, me, real):
    """Do one block of a stage of the way back through a time step."""
    word = carray(pointer(given), COUNT, int64)
    t, later = word[STEPS] - 1 - phase, phase > 0 or word[LATER] != 0
    width, size = word[WIDTH], np.int64(carray(pointer(0), 1, real).itemsize)
    pitch = width * size
    part, out = word[HIDDEN] * pitch, word[OUT] * pitch
    z, b, v = word[Z] + word[GATES] * part * t, word[B] + word[B_STEP] * t, word[V] + out * t
    dv, dm = word[DV] + out * t, word[DV] + out * t
    spare, at = word[SPARE] + me * (pitch + 64), block * CELLS * pitch
    count = min(CELLS, word[HIDDEN] - block * CELLS) * width
    if kind == GRADIENT:
        count = min(CELLS, word[OUT] - block * CELLS) * width
        behind = z + word[GATES] * part if word[GATES] == LSTM_GATES else b + word[B_STEP]
        if word[PASSES]:
            dh = word[DH] + out * t
            _fill(dh + at, count, real)
            if later:
                call(word[ADD], (word[U], block, behind, dh, width, spare))
            _through(dh + at, word[PASSES] + out * t + at, dv + at, count,
                     word[RETURNS_ROUNDED], real)  # fmt: skip
        elif later:
            call(word[ADD], (word[U], block, behind, dv, width, spare))
        if word[P]:
            return
    else:
        dm = word[UP]
        _fill(dm + at, count, real)
        call(word[ADD], (word[P], block, dv, dm, width, spare))
    z, b, dm = z + at, b + at, dm + at
    if word[GATES] == LSTM_GATES:
        c = word[C] + part * t + at
        lstm_gates_grad(z, z + part, z + 2 * part, z + 3 * part, c, c + part, dm, word[DC] + at,
                        count, real)  # fmt: skip
        return
    direct = word[DIRECT] + at
    if later:
        _add(direct, dm, count, real)
    before = (word[BEFORE] if t == 0 else v - out) + at
    gru_gates_grad(z, z + part, z + 2 * part, b, b + part, b + 2 * part, before, dm, direct, count,
                   real)  # fmt: skip


@inner
def _fill(target, count, real):
    """Write zeros."""
    taken = carray(pointer(target), count, real)
    for k in range(count):
        taken[k] = 0


@inner
def _spread(source, target, count, width, real):
    """Write a number for each row to all its columns."""
    given, taken = carray(pointer(source), count, real), carray(pointer(target), count, real)
    for k in range(count):
        taken[k] = given[k // width]


@inner
def _add(source, target, count, real):
    """Add numbers to others."""
    given, taken = carray(pointer(source), count, real), carray(pointer(target), count, real)
    for k in range(count):
        taken[k] += given[k]


@inner
def _round(given, source, target, count, real):
    """Write step * clip(rint(x / step), low, high); without a step zeros. NaN stays NaN."""
    step = real(load(given + 8 * LEVEL_STEP, float64))
    low, high = real(load(given + 8 * LOW, float64)), real(load(given + 8 * HIGH, float64))
    x, y = carray(pointer(source), count, real), carray(pointer(target), count, real)
    for k in range(count):
        if step == 0:
            y[k] = x[k] * step
        else:
            level = np.rint(x[k] / step)
            level = low if level < low else level
            y[k] = (high if level > high else level) * step


@inner
def _through(dh, passes, dv, count, returned, real):
    """Take a gradient by the rounded h through the rounding; dv also is one if it was returned."""
    by_rounded, factor = carray(pointer(dh), count, real), carray(pointer(passes), count, real)
    by_h = carray(pointer(dv), count, real)
    for k in range(count):
        if returned:
            by_rounded[k] += by_h[k]
            by_h[k] = by_rounded[k] * factor[k]
        else:
            by_h[k] += by_rounded[k] * factor[k]


@cache
def participant(real: Any) -> int:
    """Return the address of `_participate` for a real dtype."""
    reals, stamp = from_dtype(real), code_stamp()

    def enter(job, me):
        _participate(job, me + 0 * stamp, reals)

    helpers.load_functions()
    return compiled_address("void(int64, int64)", enter)

"""Sigmoid and hyperbolic tangent as LLVM vector code, and with them the gates of LSTM and GRU.

Both come from E(y) = exp(y) - 1 on a bounded y: y = n ln 2 + r with |r| <= ln 2 / 2, Taylor's
polynomial in r (of degree 7 for float32, 13 for float64: its rest is below a fourth of a rounding),
and the power of two made from n's bits. Then

    sigmoid(z) = 1 / (1 + exp(-|z|)) for z >= 0, exp(-|z|) / (1 + exp(-|z|)) below
    tanh(z) = sign(z) E(2 |z|) / (E(2 |z|) + 2)

so that neither overflows nor cancels. Errors are below 4 units in the last place (a test measures
them against float64 and long double); NaN stays NaN. All steps are the same for a vector and for a
single number, so a value does not depend on its place.
"""

# mypy: disable-error-code="call-arg,no-untyped-call,no-untyped-def"

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gbdnn.backends.fused.kernels import multiply_add, word

__all__ = ["copy_numbers", "gru_gates", "gru_gates_grad", "lstm_gates", "lstm_gates_grad"]

LANES = 8  # numbers that go together


class _Functions:
    """Emits functions of vectors of one kind."""

    def __init__(self, builder: Any, vector: Any) -> None:
        self.builder, self.vector = builder, vector
        single = isinstance(vector.element, ir.FloatType)
        self.bits = ir.VectorType(ir.IntType(32 if single else 64), vector.count)
        self.mantissa, self.one_bits = (23, 0x3F800000) if single else (52, 0x3FF << 52)
        self.degree = 7 if single else 13
        self.magic = 1.5 * 2.0**self.mantissa  # a sum with it has n in its last bits
        # ln 2 in two parts: n times the first is exact
        self.high = 0.693359375 if single else 6.93147180369123816490e-01
        self.low = -2.1219444005469058e-4 if single else 1.9082149292705877e-10
        self.most_sigmoid = 87.0 if single else 708.0  # below, exp(-y) is a normal number
        self.most_tanh = 20.0 if single else 40.0  # of 2 |z|; above, tanh rounds to 1

    def all(self, value: float) -> Any:
        return ir.Constant(self.vector, [value] * self.vector.count)

    def integers(self, value: int) -> Any:
        return ir.Constant(self.bits, [value] * self.vector.count)

    def less(self, a: Any, b: Any, yes: Any, no: Any) -> Any:
        """Return yes where a < b, else no, also for NaN."""
        return self.builder.select(self.builder.fcmp_ordered("<", a, b), yes, no)

    def magnitude(self, z: Any) -> Any:
        bits = self.builder.bitcast(z, self.bits)
        size = self.mantissa + (9 if self.mantissa == 23 else 12)
        kept = self.builder.and_(bits, self.integers((1 << (size - 1)) - 1))
        return self.builder.bitcast(kept, self.vector)

    def with_sign(self, a: Any, z: Any) -> Any:
        size = self.mantissa + (9 if self.mantissa == 23 else 12)
        sign = self.builder.and_(
            self.builder.bitcast(z, self.bits), self.integers(-1 << (size - 1))
        )
        return self.builder.bitcast(
            self.builder.or_(self.builder.bitcast(a, self.bits), sign), self.vector
        )

    def parts(self, y: Any) -> tuple[Any, Any]:
        """Return (2^n, p) with exp(y) = 2^n (1 + p), for |y| within the range of normal numbers."""
        b = self.builder
        shifted = multiply_add(b, y, self.all(1 / math.log(2)), self.all(self.magic))
        n = b.fsub(shifted, self.all(self.magic))
        r = multiply_add(b, n, self.all(-self.high), y)
        r = multiply_add(b, n, self.all(-self.low), r)
        q = self.all(1 / math.factorial(self.degree))
        for k in range(self.degree - 1, 1, -1):
            q = multiply_add(b, q, r, self.all(1 / math.factorial(k)))
        p = multiply_add(b, b.fmul(r, r), q, r)
        bits = b.shl(b.bitcast(shifted, self.bits), self.integers(self.mantissa))
        power = b.bitcast(b.add(bits, self.integers(self.one_bits)), self.vector)
        return power, p

    def sigmoid(self, z: Any) -> Any:
        b, one = self.builder, self.all(1.0)
        a = self.magnitude(z)
        bounded = self.less(self.all(self.most_sigmoid), a, self.all(self.most_sigmoid), a)
        power, p = self.parts(b.fneg(bounded))
        e = multiply_add(b, power, p, power)
        e = self.less(self.all(self.most_sigmoid), a, self.all(0.0), e)
        above = self.less(z, self.all(0.0), e, one)
        return b.fdiv(above, b.fadd(one, e))

    def tanh(self, z: Any) -> Any:
        b = self.builder
        y = self.magnitude(z)
        y = b.fadd(y, y)
        y = self.less(self.all(self.most_tanh), y, self.all(self.most_tanh), y)
        power, p = self.parts(y)
        e = multiply_add(b, power, p, b.fsub(power, self.all(1.0)))
        return self.with_sign(b.fdiv(e, b.fadd(e, self.all(2.0))), z)


def _elementwise(count: int, body: Any) -> Any:
    """Return the code of an intrinsic: `body` for vectors, then for single numbers."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        real = signature.args[-1].dtype
        element, size = context.get_data_type(real), real.bitwidth // 8
        pointers, total = args[:count], args[count]
        whole = builder.sub(total, builder.srem(total, word(LANES)))
        for lanes, first, last in ((LANES, word(0), whole), (1, whole, total)):
            vector = ir.VectorType(element, lanes)
            with cgutils.for_range_slice(builder, first, last, word(lanes)) as (k, _):
                at = builder.mul(k, word(size))
                places = [
                    builder.inttoptr(builder.add(p, at), vector.as_pointer()) for p in pointers
                ]
                values = [builder.load(place, align=size) for place in places]
                for number, value in body(_Functions(builder, vector), *values).items():
                    builder.store(value, places[number], align=size)
        return context.get_dummy_value()

    return codegen


def _gates(f: _Functions, *values: Any) -> dict[int, Any]:
    b, before = f.builder, values[4]
    i, forget, o = (f.sigmoid(values[k]) for k in (0, 1, 3))
    g = f.tanh(values[2])
    c = multiply_add(b, forget, before, b.fmul(i, g))
    return {0: i, 1: forget, 2: g, 3: o, 5: c, 6: b.fmul(o, f.tanh(c))}


def _gates_grad(f: _Functions, *values: Any) -> dict[int, Any]:
    i, forget, g, o, before, after, dm, dc = values
    b, one = f.builder, f.all(1.0)
    t = f.tanh(after)
    c = multiply_add(b, b.fmul(dm, o), b.fsub(one, b.fmul(t, t)), dc)

    def through(gate: Any) -> Any:
        return b.fmul(gate, b.fsub(one, gate))

    return {
        0: b.fmul(b.fmul(c, g), through(i)),
        1: b.fmul(b.fmul(c, before), through(forget)),
        2: b.fmul(b.fmul(c, i), b.fsub(one, b.fmul(g, g))),
        3: b.fmul(b.fmul(dm, t), through(o)),
        7: b.fmul(c, forget),
    }


def _gru(f: _Functions, *values: Any) -> dict[int, Any]:
    b, (r, z, n, inner_r, inner_z, inner_n, before, _) = f.builder, values
    r, z = f.sigmoid(b.fadd(r, inner_r)), f.sigmoid(b.fadd(z, inner_z))
    n = f.tanh(multiply_add(b, r, inner_n, n))
    h = multiply_add(b, z, before, b.fmul(b.fsub(f.all(1.0), z), n))
    return {0: r, 1: z, 2: n, 7: h}


def _gru_grad(f: _Functions, *values: Any) -> dict[int, Any]:
    r, z, n, _, _, inner, before, dh, _ = values
    b, one = f.builder, f.all(1.0)
    open_ = b.fsub(one, z)
    dn = b.fmul(b.fmul(dh, open_), b.fsub(one, b.fmul(n, n)))
    dz = b.fmul(b.fmul(dh, b.fsub(before, n)), b.fmul(z, open_))
    dr = b.fmul(b.fmul(dn, inner), b.fmul(r, b.fsub(one, r)))
    return {0: dr, 1: dz, 2: dn, 3: dr, 4: dz, 5: b.fmul(dn, r), 8: b.fmul(dh, z)}


@intrinsic
def copy_numbers(typingctx, source, target, count, real):
    """Copy `count` numbers from an address to another."""
    return types.void(*(types.int64,) * 3, real), _elementwise(2, lambda _, x, y: {1: x})


@intrinsic
def lstm_gates(typingctx, i, f, g, o, before, after, h, count, real):
    """Replace the sums of `count` gates by their values; write c and h = o tanh(c)."""
    return types.void(*(types.int64,) * 8, real), _elementwise(7, _gates)


@intrinsic
def lstm_gates_grad(typingctx, i, f, g, o, before, after, dh, dc, count, real):
    """Replace gates by the gradients of their sums, and dc by the gradient of c before."""
    return types.void(*(types.int64,) * 9, real), _elementwise(8, _gates_grad)


@intrinsic
def gru_gates(typingctx, r, z, n, inner_r, inner_z, inner_n, before, h, count, real):
    """Replace the sums of `count` gates by their values; write h = (1 - z) n + z h'."""
    return types.void(*(types.int64,) * 9, real), _elementwise(8, _gru)


@intrinsic
def gru_gates_grad(
    typingctx, r, z, n, inner_r, inner_z, inner_n, before, dh, back, count, real
):  # fmt: skip
    """Replace gates and inner sums by the gradients of both sums; write dh z."""
    return types.void(*(types.int64,) * 10, real), _elementwise(9, _gru_grad)

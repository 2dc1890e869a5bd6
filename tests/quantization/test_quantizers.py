"""The quantizers: golden values, gradients, and what holds of all of them."""

from __future__ import annotations

import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from gbdnn.errors import DtypeError, InputError, NonFiniteError, UnknownNameError
from gbdnn.quantization import (
    QUANTIZERS,
    Fix,
    Lsq,
    Max,
    Octav,
    Pact,
    PactPlus,
    Percentile,
    Quantizer,
    Sawb,
    SawbPlus,
    quantizer,
)

X = np.array([-3, -1.3, -0.7, -0.2, 0, 0.11, 0.5, 0.93, 1.4, 2.6], np.float32)
G = np.arange(1, 11, dtype=np.float32)
POSITIVE = np.maximum(X, 0)
ONE = [0, 0, 0, 0, 0, 0.133333, 0.533333, 0.933333, 1.333333, 2]
TWO = [-1.4, -1.4, -0.7, -0.233333, 0, 0, 0.466667, 0.933333, 1.4, 2.1]
SYMMETRIC = [-2, -1.428571, -0.571429, -0.285714, 0, 0, 0.571429, 0.857143, 1.428571, 2]
FIXED = [-1, -1, -0.714286, -0.142857, 0, 0.142857, 0.428571, 1, 1, 1]
MAX = [-3, -1.285714, -0.857143, 0, 0, 0, 0.428572, 0.857143, 1.285714, 2.571428]
WITHIN = [0, 2, 3, 4, 5, 6, 7, 8, 9, 0]
GOLDEN = [
    # quantizer, x, clips, levels, dx, gradients of the clips
    (Pact(sides="one"), POSITIVE, {"high": 2}, ONE, [*G[:9], 0], {"high": 10}),
    (PactPlus(sides="one"), POSITIVE, {"high": 2}, ONE, [0] * 5 + [6, 7, 8, 9, 0], {"high": 9.9}),
    (Pact(sides="two"), X, {"high": 2, "low": -1.5}, TWO, WITHIN, {"high": 10, "low": 1}),
    (PactPlus(sides="two"), X, {"high": 2, "low": -1.5}, TWO, WITHIN,
     {"high": 9.666667, "low": 1.333333}),
    (Pact(), X, {"high": 2}, SYMMETRIC, WITHIN, {"high": 9}),
    (PactPlus(), X, {"high": 2}, SYMMETRIC, WITHIN, {"high": 8.65}),
    (Fix(clip=1), X, {}, FIXED, G, {}),
    (Max(), X, {}, MAX, G, {}),
]  # fmt: skip
SIDED = [
    make(bits=bits, sides=sides)
    for make in QUANTIZERS.values()
    for sides in make.allowed
    for bits in (2, 4, 8)
]


def learned_of(quantizer, x):
    return quantizer.initial(x)


def faked(quantizer, x, learned=None):
    out = np.empty_like(x)
    quantizer.fake(x, learned_of(quantizer, x) if learned is None else learned, out)
    return out


def backward(quantizer, x, g, learned):
    dx, dlearned = g.copy(), {name: np.full(1, np.nan) for name in learned}
    quantizer.backward(x, learned, dx, dlearned)
    return dx, {name: float(value[0]) for name, value in dlearned.items()}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("quantizer", "x", "clips", "y", "dx", "dclips"), GOLDEN)
def test_golden_values(quantizer, x, clips, y, dx, dclips, dtype):
    if dtype == np.float64:
        y = np.where(np.isclose(y, 0.428571, atol=1e-6) & (y is FIXED), 4 / 7, y)  # 3.5 is a tie
    learned = {name: np.array([float(value)]) for name, value in clips.items()}
    np.testing.assert_allclose(faked(quantizer, x.astype(dtype), learned), y, atol=2e-6)
    found = backward(quantizer, x.astype(dtype), G.astype(dtype), learned)
    np.testing.assert_allclose(found[0], dx)
    assert found[1] == pytest.approx(dclips, rel=1e-6)


def test_a_wrong_rounding_mode_fails(monkeypatch):
    """Ties go to the even level; half away from zero, up, or cut off are told from that."""
    ties = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5, 7], np.float32)  # MAX: the step is 1
    even = [-2, -2, 0, 0, 2, 2, 4, 7]
    np.testing.assert_array_equal(faked(Max(), ties), even)
    away = lambda x, out: np.copyto(out, np.trunc(x + np.copysign(0.5, x)))  # noqa: E731
    up = lambda x, out: np.copyto(out, np.floor(x + 0.5))  # noqa: E731
    cut = lambda x, out: np.copyto(out, np.trunc(x))  # noqa: E731
    for wrong in (away, up, cut):
        monkeypatch.setattr(np, "rint", wrong)
        assert (faked(Max(), ties) != even).any()


def test_clips_of_known_distributions(rng):
    gauss, laplace = rng.standard_normal(400_000), rng.laplace(size=400_000)
    assert Sawb().clip(gauss)[1] == pytest.approx(2.436, rel=0.01)
    assert Octav().clip(gauss)[1] == pytest.approx(2.562, rel=0.01)
    assert Octav().clip(laplace)[1] == pytest.approx(5.028, rel=0.02)
    one = Octav(sides="one").clip(np.abs(gauss))[1]
    assert one == pytest.approx(Octav(bits=5).clip(gauss)[1], rel=0.01)  # the same step
    assert Percentile(percent=97.5, sides="two").clip(gauss) == pytest.approx(
        (-1.96, 1.96), rel=0.02
    )
    assert Percentile(percent=95).clip(gauss)[1] == pytest.approx(1.96, rel=0.02)
    x = gauss[:1000]
    assert Lsq().initial(x)["step"][0] == pytest.approx(2 * np.abs(x).mean() / np.sqrt(7))


@pytest.mark.parametrize("bits", [3, 4, 5, 6, 7, 8])
def test_sawb_is_near_the_clip_of_the_least_error(bits, rng):
    x = rng.standard_normal(50_000)
    errors = {
        a: float(np.square(faked(Fix(bits=bits, clip=a), x) - x).mean())
        for a in np.linspace(1, 6, 101)
    }
    found = float(np.square(faked(Sawb(bits=bits), x) - x).mean())
    assert found < 1.1 * min(errors.values())


@pytest.mark.parametrize("kept", [0.3, 0.1])
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_sawb_does_not_cut_pruned_weights_off(kept, bits, rng):
    x = rng.standard_normal(20_000)
    x = x[np.abs(x) >= np.quantile(np.abs(x), 1 - kept)].astype(np.float32)
    least = min(np.square(faked(Fix(bits=bits, clip=float(a)), x) - x).mean()
                for a in np.linspace(0.5, 5, 91))  # fmt: skip
    assert np.square(faked(Sawb(bits=bits), x) - x).mean() < 1.2 * least


def test_sawb_passes_the_gradient_within_and_sawb_plus_everywhere(rng):
    x = rng.standard_normal(1000).astype(np.float32)
    g = np.ones_like(x)
    inside = np.abs(x) <= Sawb().clip(x)[1]
    assert not inside.all()
    np.testing.assert_array_equal(backward(Sawb(), x, g, {})[0], inside)
    np.testing.assert_array_equal(backward(SawbPlus(), x, g, {})[0], g)


@pytest.mark.parametrize("sides", ["symmetric", "one", "two"])
def test_pact_plus_slopes_are_those_of_the_function_with_the_codes_held(sides, rng):
    """y = l + s k with k = round((x - l) / s) held: dy/da and dy/dl minus what x itself moves."""
    x = rng.uniform(-2.5, 2.5, 200)
    x = np.abs(x) if sides == "one" else x
    learned = {"high": np.array([1.7]), **({"low": np.array([-1.1])} if sides == "two" else {})}
    found = backward(PactPlus(sides=sides), x, np.ones_like(x), learned)[1]

    def value(low, high, codes=None):
        """Sum over y - x' where x' = l + (a - l) z, z the place of x between the clips."""
        n = 2**4 - (2 if sides == "symmetric" else 1)
        clipped = np.clip(x, *limits)
        z = (clipped - limits[0]) / (limits[1] - limits[0]) * n
        inside = (x > limits[0]) & (x < limits[1])
        moved = low + (high - low) / n * np.rint(z)
        still = low + (high - low) / n * z
        return float(np.where(inside, moved - still, moved).sum())

    limits = (-1.7 if sides == "symmetric" else 0.0 if sides == "one" else -1.1, 1.7)
    h = 1e-6
    low = {"symmetric": lambda a: -a, "one": lambda a: 0.0, "two": lambda a: -1.1}[sides]
    slope = (value(low(1.7 + h), 1.7 + h) - value(low(1.7 - h), 1.7 - h)) / (2 * h)
    assert found["high"] == pytest.approx(slope, rel=1e-6)
    if sides == "two":
        slope = (value(-1.1 + h, 1.7) - value(-1.1 - h, 1.7)) / (2 * h)
        assert found["low"] == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("sides", ["symmetric", "one"])
def test_the_step_of_lsq_has_the_gradient_with_the_codes_held(sides, rng):
    x, g, q = rng.standard_normal(300), rng.standard_normal(300), Lsq(sides=sides)
    learned = {"step": np.array([0.2])}
    most = 7 if sides == "symmetric" else 15
    codes = np.clip(x / 0.2, -7 if sides == "symmetric" else 0, most)
    slope = np.rint(codes) - np.where(np.abs(codes - x / 0.2) < 1e-12, codes, 0)
    wanted = float(g @ slope) / np.sqrt(300 * most)
    dx, dlearned = backward(q, x, g, learned)
    assert dlearned["step"] == pytest.approx(wanted)
    np.testing.assert_array_equal(dx, np.where((codes == x / 0.2) & (np.abs(codes) < most), g, 0))


numbers = arrays.arrays(
    np.float32, st.integers(1, 40), elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
)


@settings(deadline=None, max_examples=30)
@given(x=numbers)
@pytest.mark.parametrize("q", SIDED, ids=lambda q: f"{q.kind}-{q.sides}-{q.bits}")
def test_what_holds_of_all(q, x):
    """Levels are their own levels, 0 stays 0, codes and levels are the same thing."""
    learned = learned_of(q, x)
    y, again = faked(q, x, learned), np.empty_like(x)
    steps, levels = q.steps(x, learned), q.levels(x, learned)
    steps.fake(y, again)
    np.testing.assert_array_equal(again, y)
    assert not y[x == 0].any()
    assert len(np.unique(y)) <= 2**q.bits - (q.sides == "symmetric")
    codes = levels.code(x)
    assert levels.low <= codes.min()
    assert codes.max() <= levels.high
    np.testing.assert_array_equal(levels.code(levels.value(codes)), codes)
    np.testing.assert_allclose(levels.value(codes), y, rtol=1e-6, atol=1e-37)
    assert q.is_symmetric == (levels.zero == 0 and levels.low == -levels.high)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("q", SIDED, ids=lambda q: f"{q.kind}-{q.sides}-{q.bits}")
def test_hostile_tensors(q, dtype, rng):
    nothing, zeros = np.zeros(0, dtype), np.zeros((3, 4), dtype)
    for x in (nothing, zeros):
        assert faked(q, x).shape == x.shape
        assert not faked(q, x).any()
        dx, dlearned = backward(q, x, np.ones_like(x), learned_of(q, x))
        assert np.isfinite(dx).all()
        assert np.isfinite(list(dlearned.values())).all()
        assert not q.levels(x, learned_of(q, x)).value(q.levels(x, learned_of(q, x)).code(x)).any()
        assert all(np.isfinite(value).all() for value in q.observed(x).values())
    outlier = rng.standard_normal(3000).astype(dtype)
    outlier[7] = 1e6
    y = faked(q, outlier)
    assert np.isfinite(y).all()
    assert y[7] > 0
    if q.kind in ("pact", "pact+", "percentile"):  # one of 1500 is beyond 99.9 %
        assert y.max() < 1e5
    bad = outlier.copy()
    bad[3] = np.nan
    given = {name: np.ones(1) for name in learned_of(q, outlier)}
    assert np.isnan(faked(q, bad, given)[3])
    if q.kind in ("max", "sawb", "sawb+"):
        with pytest.raises(NonFiniteError, match=q.kind.replace("+", r"\+")):
            q.levels(bad, {})
    huge = np.array([-1e37, 1e37], np.float32)
    with np.errstate(all="raise", under="ignore"):
        assert np.isfinite(faked(q, huge)).all()


def test_crossed_and_negative_clips_keep_zero_and_a_gradient():
    x, g = np.array([-1.0, 0, 1.0]), np.ones(3)
    for q in (Pact(sides="two"), PactPlus(sides="two")):
        learned = {"low": np.array([0.5]), "high": np.array([-0.5])}
        assert not faked(q, x, learned).any()
        assert np.isfinite(list(backward(q, x, g, learned)[1].values())).all()
    for q in (Pact(), PactPlus(), Pact(sides="one"), PactPlus(sides="one")):
        learned = {"high": np.array([-0.5])}
        assert not faked(q, x, learned).any()
        assert np.isfinite(backward(q, x, g, learned)[1]["high"])


def test_starts_and_settings():
    x = np.linspace(-4, 8, 13)
    assert PactPlus(sides="two", start=(-1, 1)).initial(x) == {"low": [-1.0], "high": [1.0]}
    assert Pact(start=2).initial(x) == {"high": [2.0]}
    assert Pact(sides="two", percent=100).initial(x) == {"low": [-4.0], "high": [8.0]}
    assert Pact(percent=100).initial(x) == {"high": [8.0]}
    made = quantizer("pact+", {"bits": 8, "sides": "two"})
    assert quantizer(made.kind, made.settings) == made
    assert quantizer(made) is made


@pytest.mark.parametrize("make", QUANTIZERS.values(), ids=QUANTIZERS)
@pytest.mark.parametrize("bits", [1, 9, 0, -4, 4.0, True, "4", None])
def test_bits_outside_2_to_8_are_refused(make, bits):
    with pytest.raises(InputError, match="bits: expected a whole number from 2 to 8"):
        make(bits=bits)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("maxx", {}, "quantizer"),
        ("max", {"clip": 3}, "settings"),
        ("fix", {"clip": 0}, "clip"),
        ("fix", {"sides": "two"}, "sides"),
        ("sawb", {"sides": "one"}, "sides"),
        ("pact", {"start": -1}, "start"),
        ("pact", {"start": (-1, 1)}, "start"),
        ("pact", {"sides": "two", "start": 1}, "start"),
        ("pact", {"sides": "two", "start": (1, 2)}, "start"),
        ("percentile", {"percent": 50}, "percent"),
        ("pact", {"percent": 101}, "percent"),
    ],
)
def test_settings_that_cannot_be(name, given, message):
    with pytest.raises((InputError, UnknownNameError), match=message):
        quantizer(name, given)


def test_no_quantizer():
    with pytest.raises(DtypeError, match="quantizer"):
        quantizer(3)
    with pytest.raises(InputError, match="frozen"):
        Quantizer.levels(type("Own", (Quantizer,), {"kind": "own"})(), X, {})

"""The quantizers beside those of IBM's fms-model-optimizer 0.8.7: values and gradients.

To run it: ``pip install --no-deps fms-model-optimizer==0.8.7`` and torch, then ``pytest -m slow``.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from gbdnn.quantization import Fix, Lsq, Max, Pact, PactPlus, Sawb, SawbPlus
from gbdnn.quantization.base import one

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow
BITS = (2, 4, 8)


@pytest.fixture(scope="module")
def ibm():
    """Their module of quantizers by itself: the package would want transformers too."""
    found = importlib.util.find_spec("fms_mo")
    if found is None or found.origin is None:
        pytest.skip("needs pip install --no-deps fms-model-optimizer==0.8.7")
    assert importlib.metadata.version("fms-model-optimizer") == "0.8.7"
    path = Path(found.origin).parent / "quant" / "quantizers.py"
    spec = importlib.util.spec_from_file_location("ibm_quantizers", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["ibm_quantizers"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["ibm_quantizers"]


@pytest.fixture(params=range(3))
def data(request):
    """Numbers of a Gaussian, a Laplacian and a uniform distribution, and a gradient."""
    rng = np.random.default_rng(request.param)
    draw = (rng.normal, rng.laplace, rng.uniform)[request.param]
    return draw(-1, 2, 5000), rng.standard_normal(5000)


def theirs(function, x, g, *clips, rest=()):
    """Return y, dx and the gradients of the clips of one of their autograd functions."""
    given = [torch.tensor(np.atleast_1d(value), requires_grad=True) for value in (x, *clips)]
    y = function.apply(*given, *rest)
    y.backward(torch.tensor(g))
    return [y.detach().numpy(), *(each.grad.numpy() for each in given)]


def ours(quantizer, x, g, learned):
    """Return y, dx and the gradients of what is learned."""
    learned = {name: one(value) for name, value in learned.items()}
    y, dx = np.empty_like(x), g.copy()
    quantizer.fake(x, learned, y)
    grads = {name: np.zeros(1) for name in learned}
    quantizer.backward(x, learned, dx, grads)
    return y, dx, {name: grad[0] for name, grad in grads.items()}


def same(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("bits", BITS)
def test_pact(ibm, data, bits):
    x, g = data
    for kind, function in ((Pact, ibm.PACT_STE), (PactPlus, ibm.PACTplusSTE)):
        x = np.abs(x)  # PACT refuses negative numbers
        y, dx, grads = ours(kind(bits, "one"), x, g, {"high": 2.3})
        other = theirs(function, x, g, 2.3, rest=(bits, True, False))
        same(y, other[0])
        same(dx, other[1])
        same(grads["high"], other[2][0])


@pytest.mark.parametrize("bits", BITS)
def test_pact_of_two_sides(ibm, data, bits):
    x, g = data
    for kind, function in ((Pact, ibm.PACT2_STE), (PactPlus, ibm.PACTplus2STE)):
        y, dx, grads = ours(kind(bits, "two"), x, g, {"low": -1.7, "high": 2.1})
        other = theirs(function, x, g, 2.1, -1.7, rest=(bits, True, False, True, False))
        same(y, other[0])
        same(dx, other[1])
        same([grads["high"], grads["low"]], [other[2][0], other[3][0]])


@pytest.mark.parametrize("bits", BITS)
def test_symmetric_pact(ibm, data, bits):
    x, g = data
    y, dx, grads = ours(PactPlus(bits), x, g, {"high": 2.1})
    other = theirs(ibm.PACTplusSymSTE_rev1, x, g, 2.1, rest=(bits, True, False, True, False))
    same(y, other[0])
    same(dx, other[1])
    same(grads["high"], other[2][0])
    y, dx, grads = ours(Pact(bits), x, g, {"high": 2.1})
    other = theirs(ibm.PACT2Sym_STE, x, g, 2.1, rest=(bits, True, False))
    same(y, other[0])
    same(dx, other[1])
    above, below = g[x >= 2.1].sum(), g[x <= -2.1].sum()
    same(grads["high"], above - below)
    same(other[2][0], above + below)  # they add; y falls with a where x is below -a


@pytest.mark.parametrize("bits", [2, 4, 7, 8])
def test_sawb(ibm, data, bits):
    x, g = data
    for kind, function in ((Sawb, ibm.SAWBZeroSTE), (SawbPlus, ibm.SAWBPlusZeroSTE)):
        clip = torch.zeros(1, dtype=torch.float64)
        found = kind(bits).clip(x)[1]
        other = theirs(function, x, g, rest=(bits, True, False, clip, True))
        most = np.abs(x).max()
        same(found, min(clip.item(), most))  # ours does not reach beyond the largest value
        if clip.item() <= most:
            y, dx, _ = ours(kind(bits), x, g, {})
            same(y, other[0])
            same(dx, other[1])


@pytest.mark.parametrize("bits", [3, 5])
def test_clips_of_sawb_without_levels_of_theirs(ibm, data, bits):
    """Their 3 and 5 bits have 2^b levels, none of which is 0; the clips are comparable."""
    x, _ = data
    found = Sawb(bits).clip(x)[1]
    same(found, min(ibm.sawb_params(bits, torch.tensor(x)).item(), np.abs(x).max()))


@pytest.mark.parametrize("bits", BITS)
def test_max_and_fix(ibm, data, bits):
    x, g = data
    y, dx, _ = ours(Max(bits), x, g, {})
    clip = torch.tensor([np.abs(x).max()])
    other = theirs(ibm.QmaxSTE, x, g, rest=(bits, True, False, clip, -clip, True))
    same(y, other[0])
    same(dx, other[1])
    y, dx, _ = ours(Fix(bits, clip=1.5), x, g, {})
    clip = torch.tensor([1.5], dtype=torch.float64)
    other = theirs(ibm.QFixSymmetricZeroSTE, x, g, rest=(bits, clip))
    same(y, other[0])
    same(dx, other[1])


@pytest.mark.parametrize("bits", BITS)
def test_max_of_two_sides(ibm, data, bits):
    """The same levels; theirs rounds from l on, which need not be a level, ours from 0 on."""
    x, g = data
    y, dx, _ = ours(Max(bits, "two"), x, g, {})
    ends = [torch.tensor(end) for end in (x.max(), x.min())]
    other = theirs(ibm.QminmaxSTE, x, g, rest=(bits, True, False, *ends, True))
    step = Max(bits, "two").steps(x, {}).step
    apart = np.abs(y - other[0]) / step
    same(apart, np.rint(apart))
    assert apart.max() <= 1 + 1e-9
    assert np.abs(y - x).mean() <= np.abs(other[0] - x).mean()
    same(dx, other[1])


@pytest.mark.parametrize("bits", BITS)
def test_lsq(ibm, data, bits):
    """Theirs learns the clip Qp s; the factor of its gradient is made of the shape, for 2 bits."""
    x, g = np.abs(data[0]), data[1]
    most = 2**bits - 1
    y, dx, grads = ours(Lsq(bits, "one"), x, g, {"step": 2.3 / most})
    other = theirs(ibm.LSQQuantizationSTE, x, g, 2.3, rest=(bits, True, False))
    same(y, other[0])
    same(dx, other[1])
    of_step = grads["step"] * np.sqrt(x.size * most)  # without the factors
    of_clip = other[2][0] * np.sqrt(3.0 * x.size)
    same(of_step / most, of_clip)


def test_a_wrong_quantizer_is_noticed(ibm, data):
    x, g = data
    other = theirs(ibm.PACT2_STE, x, g, 2.1, -1.7, rest=(4, True, False, True, False))
    for wrong in ({"low": -1.7, "high": 2.102}, {"low": -1.702, "high": 2.1}):
        y, _, _ = ours(Pact(4, "two"), x, g, wrong)
        with pytest.raises(AssertionError):
            same(y, other[0])
    _, _, grads = ours(PactPlus(4, "two"), x, g, {"low": -1.7, "high": 2.1})
    with pytest.raises(AssertionError):
        same(grads["high"], other[2][0])

"""The kernels, one by one, against the same lines in float64, and how they are compiled."""

import ctypes
import itertools

import pytest
import torch
from torch.nn import functional as F

from bnbook.training import deep, kernels
from tests.rounding import assert_close, epsilon

needs_compiler = pytest.mark.skipif(kernels.compiler() is None, reason="no C++ compiler")
PRECISIONS = ("float32", "bfloat16")


class Piece:
    """A layer of random numbers, and its description for the kernels."""

    def __init__(self, precision, *, cin=16, cout=16, stride=1, size=(5, 6), n=3, normed=True,
                 offset=0.0):  # fmt: skip
        self.dtype, self.prefix, per = deep.PRECISIONS[precision]
        self.shape = (n, cin, *size)
        after = [(length - 1) // stride + 1 for length in size]
        inner = max(cin, 16)
        self.made = kernels.Layer(n, *size, inner, cout, stride, cin)
        self.weight = torch.randn(3, 3, cin, cout).to(self.dtype).float()
        self.y = (offset + torch.randn(n, *after, cout)).to(self.dtype)
        for name in ("bias", "dbias", "gamma", "dgamma", "mean", "mu", "root", "scale", "tilt",
                     "level"):  # fmt: skip
            setattr(self, name, torch.randn(cout))
        self.var, self.dweight = torch.rand(cout), torch.zeros(3, 3, cin, cout)
        self.packed = torch.zeros(9 * inner * cout // per, dtype=torch.int32)
        self.turned = torch.zeros_like(self.packed)
        self.made.eps, self.made.momentum = 1e-5, 0.25
        skipped = () if normed else ("gamma", "dgamma")
        for name, kind in kernels.Layer._fields_:
            if kind is ctypes.c_void_p and name not in (*skipped, *(["turned"] * (cin < 16))):
                setattr(self.made, name, getattr(self, name).data_ptr())
        self.at = ctypes.addressof(self.made)
        self.call("pack", self.at)

    def call(self, name, *arguments):
        getattr(kernels.library(), f"{self.prefix}_{name}")(*arguments)

    def statistics(self):
        """Set the batch's statistics from y, as the forward pass does."""
        y = self.y.double()
        var, mu = torch.var_mean(y, (0, 1, 2), correction=0)
        self.mu.copy_(mu)
        self.root.copy_((var + 1e-5).rsqrt())
        self.scale.copy_(self.gamma * self.root)

    def settled(self, g):
        """Set what the backward pass needs to know of g at the normalised output."""
        m = g.numel() // g.shape[-1]
        xhat = (self.y.double() - self.mu.double()) * self.root
        aligned = (g.double() * xhat).sum((0, 1, 2))
        self.level.copy_(-self.scale * g.double().sum((0, 1, 2)) / m)
        self.tilt.copy_(-self.scale * self.root * aligned / m)

    def normalised(self):
        """Of y, in float64."""
        return (self.y.double() - self.mu.double()) * self.scale.double() + self.bias.double()


def channels_first(x):
    return x.double().permute(0, 3, 1, 2)


def kernel(piece):
    return piece.weight.double().permute(3, 2, 0, 1)


def images(piece, channels=None):
    n, cin, *size = piece.shape
    return torch.randn(n, *size, channels or max(cin, 16)).to(piece.dtype)


def convolved(piece, x, weight=None):
    weight = kernel(piece) if weight is None else weight
    return F.conv2d(channels_first(x), weight, None, piece.made.stride, 1).permute(0, 2, 3, 1)


def held(found, expected, terms, piece, sums, stored=1):
    """Compare: so many roundings of float32, and so many of what is stored."""
    share = (sums + 8) * epsilon(torch.float32) + stored * epsilon(piece.dtype)
    assert_close(found.double(), expected, share * terms / epsilon(torch.float64), 1)


def rectified_shortcut(x, stride, channels):
    x = x[:, ::stride, ::stride].double()
    return F.pad(x, (0, channels - x.shape[-1]))


SHAPES = [
    {"cin": 16, "cout": 16, "size": (5, 6)},
    {"cin": 16, "cout": 32, "size": (8, 8), "stride": 2},
    {"cin": 16, "cout": 48, "size": (7, 5), "stride": 2},
    {"cin": 16, "cout": 32, "size": (3, 41), "stride": 2},
    {"cin": 32, "cout": 64, "size": (4, 27), "stride": 2},
    {"cin": 32, "cout": 32, "size": (3, 17)},
    {"cin": 32, "cout": 64, "size": (9, 4)},
]


def each_shape(function):
    names = [f"{s['cin']} to {s['cout']}, {s['size']}" for s in SHAPES]
    return needs_compiler(
        pytest.mark.parametrize("precision", PRECISIONS)(
            pytest.mark.parametrize("shape", SHAPES, ids=names)(function)
        )
    )


@each_shape
def test_a_convolution_and_the_statistics_of_its_output(shape, precision):
    torch.manual_seed(0)
    piece = Piece(precision, **shape)
    mean, var = piece.mean.clone(), piece.var.clone()
    x = images(piece)
    piece.call("forward", piece.at, x.data_ptr(), None, None, None, 1)
    terms = convolved(piece, x.abs(), kernel(piece).abs())
    held(piece.y, convolved(piece, x), terms, piece, 9 * shape["cin"])
    y = piece.y.double()
    m = y.numel() // shape["cout"]
    found_var, found_mu = torch.var_mean(y, (0, 1, 2), correction=0)
    size = y.square().mean((0, 1, 2))
    held(piece.mu, found_mu, size.sqrt(), piece, m, stored=0)
    held(piece.root**-2, found_var + 1e-5, size, piece, m, stored=0)
    held(piece.mean, mean + (found_mu - mean) / 4, mean.abs() + size.sqrt(), piece, m, 0)
    unbiased = found_var * m / (m - 1)
    held(piece.var, var + (unbiased - var) / 4, var + size, piece, m, stored=0)


@each_shape
def test_an_input_is_normalised_and_rectified_on_its_way(shape, precision):
    torch.manual_seed(1)
    piece = Piece(precision, **shape)
    before = Piece(precision, cout=shape["cin"], size=shape["size"])
    before.statistics()
    piece.call("forward", piece.at, before.y.data_ptr(), before.at, None, None, 1)
    x = before.normalised().relu()
    terms = convolved(piece, x, kernel(piece).abs())
    held(piece.y, convolved(piece, x), terms, piece, 9 * shape["cin"], stored=2)


@needs_compiler
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("stride", [1, 2])
def test_the_end_of_a_block_adds_the_shortcut(precision, stride):
    """Option A, with normalisation (`join`) and without (in the convolution itself)."""
    torch.manual_seed(2)
    first = Piece(precision, cout=32, size=(6, 7), stride=stride)
    x = images(first)
    last = Piece(precision, cin=32, cout=32, size=first.y.shape[1:3])
    last.statistics()
    out = torch.zeros_like(last.y)
    last.call("join", last.at, x.data_ptr(), first.at, out.data_ptr())
    sides = rectified_shortcut(x, stride, 32)
    terms = last.normalised().abs() + sides.abs() + last.bias.abs()
    held(out, (last.normalised() + sides).relu(), terms, last, 4)
    plain = Piece(precision, cin=32, cout=32, size=first.y.shape[1:3], normed=False)
    inside = images(plain)
    plain.call("forward", plain.at, inside.data_ptr(), None, x.data_ptr(), first.at, 1)
    expected = convolved(plain, inside) + plain.bias + sides
    terms = convolved(plain, inside.abs(), kernel(plain).abs()) + plain.bias.abs() + sides.abs()
    held(plain.y, expected.relu(), terms, plain, 9 * 32)


def back(piece, g, x, before, add, below):
    """Call the backward kernel; return the gradient that it hands on."""
    dx = torch.zeros(x.shape, dtype=piece.dtype)
    piece.call(
        "backward", piece.at, g.data_ptr(), x.data_ptr(), None if before is None else before.at,
        None if add is None else add.data_ptr(), below.at, dx.data_ptr(), 1,
    )  # fmt: skip
    return dx


def expected_back(piece, dy, x, weight, add):
    """Gradients of the weights and at the input, and of what is added, by autograd in float64."""
    x = x.double().requires_grad_()
    weight = weight.clone().requires_grad_()
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, None, piece.made.stride, 1)
    dx, dw = torch.autograd.grad(y, [x, weight], channels_first(dy))
    if add is not None:
        stride = piece.made.stride
        dx[:, ::stride, ::stride] += add.double()[..., : dx.shape[-1]]
    return dx, dw.permute(2, 3, 1, 0)


@each_shape
@pytest.mark.parametrize("normed", [True, False], ids=["with BN", "without"])
@pytest.mark.parametrize("inside", [True, False], ids=["second", "first of a block"])
def test_gradients_of_a_convolution_with_what_surrounds_it(shape, precision, normed, inside):
    """A random gradient comes from above; that of the normalised input below and the weights' are
    held to autograd's, the normalisation's own to the six equations of the paper.
    """
    torch.manual_seed(3)
    piece = Piece(precision, normed=normed, **shape)
    below = Piece(precision, cout=shape["cin"], size=shape["size"], normed=normed)
    below.statistics()
    g = torch.randn(piece.y.shape).to(piece.dtype)
    dy = size = g.double()
    if normed:
        piece.statistics()
        piece.settled(g)
        centred = piece.y.double() - piece.mu.double()
        parts = [piece.scale * dy, piece.tilt * centred, piece.level.expand_as(dy)]
        dy, size = sum(parts), sum(p.double().abs() for p in parts)
    before = below if normed and inside else None
    x = below.y if before else images(piece)
    real = below.normalised().relu() if before else x.double()
    add = None if inside else torch.randn(piece.y.shape).to(piece.dtype)
    dx = back(piece, g, x, before, add, below)
    expected, weights = expected_back(piece, dy, real, kernel(piece), add)
    most = None if add is None else add.abs()
    bound, weights_bound = expected_back(piece, size.abs(), real.abs(), kernel(piece).abs(), most)
    passed = real > 0
    taps = 9 * shape["cout"]
    held(dx, expected * passed, bound, piece, taps, stored=2)
    positions = g.numel() // shape["cout"]
    held(piece.dweight, weights, weights_bound, piece, positions, stored=2)
    kept = dx.double()
    m = kept.numel() // shape["cin"]
    held(below.dbias, kept.sum((0, 1, 2)), kept.abs().sum((0, 1, 2)), piece, m, stored=0)
    if normed:
        xhat = (below.y.double() - below.mu.double()) * below.root
        aligned = (kept * xhat).sum((0, 1, 2))
        bound = (kept * xhat).abs().sum((0, 1, 2))
        held(below.dgamma, aligned, bound, piece, m, stored=0)
        held(below.level, -below.scale * kept.sum((0, 1, 2)) / m,
             below.scale.abs() * kept.abs().sum((0, 1, 2)) / m, piece, m, stored=0)  # fmt: skip
        held(below.tilt, -below.scale * below.root * aligned / m,
             below.scale.abs() * below.root * bound / m, piece, m, stored=0)  # fmt: skip


@needs_compiler
@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_image_of_three_channels_enters_alone(precision):
    """The stem: its input has room for 16 channels, and no gradient of it is asked for."""
    torch.manual_seed(4)
    piece = Piece(precision, cin=3, normed=False)
    x = images(piece)
    x[..., 3:] = 0
    g = torch.randn(piece.y.shape).to(piece.dtype)
    piece.call("forward", piece.at, x.data_ptr(), None, None, None, 1)
    expected = (convolved(piece, x[..., :3]) + piece.bias).relu()
    terms = convolved(piece, x[..., :3].abs(), kernel(piece).abs()) + piece.bias.abs()
    held(piece.y, expected, terms, piece, 27)
    piece.call("backward", piece.at, g.data_ptr(), x.data_ptr(), None, None, None, None, 1)
    _, weights = expected_back(piece, g, x[..., :3], kernel(piece), None)
    _, terms = expected_back(piece, g.abs(), x[..., :3].abs(), kernel(piece), None)
    held(piece.dweight, weights, terms, piece, g.numel() // 16, stored=0)


@needs_compiler
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("normed", [True, False])
def test_the_mean_over_positions_and_its_gradient(precision, normed):
    torch.manual_seed(5)
    piece = Piece(precision, cout=32, normed=normed)
    piece.statistics()
    x, g = torch.randn(piece.y.shape).to(piece.dtype), torch.randn(3, 32)
    features = torch.zeros(3, 32)
    piece.call("pool", piece.at, x.data_ptr(), features.data_ptr())
    held(features, x.double().mean((1, 2)), x.double().abs().mean((1, 2)), piece, 30, stored=0)
    dx = torch.zeros_like(x)
    piece.call("unpool", piece.at, g.data_ptr(), x.data_ptr(), dx.data_ptr())
    expected = (g / 30)[:, None, None].double() * (x > 0)
    held(dx, expected, expected.abs(), piece, 1)
    held(piece.dbias, dx.double().sum((0, 1, 2)), dx.double().abs().sum((0, 1, 2)), piece, 90, 0)


@needs_compiler
@pytest.mark.parametrize("mean", [0.0, 1e2, 1e4])
def test_large_means_lose_no_digits(mean):
    """An image of ones gives the sum of the weights everywhere inside; noise of 1 on top of that.

    The variance in float64 of what was stored is met to the rounding of float32, whatever the mean:
    a difference of the mean of squares and the squared mean would be off by eps mean^2, 6 at 10^4.
    """
    torch.manual_seed(6)
    piece = Piece("float32", size=(8, 8), n=16)
    piece.weight.zero_()
    piece.weight[1, 1] = torch.eye(16)
    piece.call("pack", piece.at)
    x = mean + torch.randn(16, 8, 8, 16)
    piece.call("forward", piece.at, x.data_ptr(), None, None, None, 1)
    assert torch.equal(piece.y, x)
    m = 16 * 64
    var, mu = torch.var_mean(x.double(), (0, 1, 2), correction=0)
    assert_close(piece.mu, mu, abs(mean) + 1, 1)
    centred = torch.tensor(2.0)  # the centre is the mean of 64 values, within 8 deviations
    assert_close(piece.root.double() ** -2, var + 1e-5, var * centred, m, torch.float32)


@needs_compiler
@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_is_no_number_is_not_hidden_by_the_rectifier(precision):
    piece = Piece(precision, normed=False)
    x = images(piece)
    x[0, 2, 2, 0] = torch.nan
    x[1, 2, 2, 0] = torch.inf
    piece.call("forward", piece.at, x.data_ptr(), None, None, None, 1)
    assert piece.y[0, 1:4, 1:4].isnan().all()
    assert piece.y[1].isinf().any()
    assert piece.y[2].isfinite().all()


@needs_compiler
@pytest.mark.parametrize("precision", PRECISIONS)
def test_numbers_are_rounded_to_nearest_even(precision):
    """The middle weight is 1, so that an output is its input plus the bias, once rounded."""
    piece = Piece(precision, normed=False)
    piece.weight.zero_()
    piece.weight[1, 1] = torch.eye(16)
    piece.call("pack", piece.at)
    x = torch.ones_like(images(piece))
    piece.bias[:] = torch.linspace(0, 0.05, 16)
    piece.call("forward", piece.at, x.data_ptr(), None, None, None, 1)
    assert torch.equal(piece.y, (1 + piece.bias).to(piece.dtype).expand_as(piece.y))


@needs_compiler
@pytest.mark.parametrize("threads", [2, 3, 5])
def test_threads_share_the_images(threads):
    """Sums over the batch are added up in another order; images are the same bits."""
    found = []
    for count in (1, threads):
        torch.manual_seed(7)
        piece = Piece("float32", n=4)
        below = Piece("float32", n=4)
        x, g = images(piece), torch.randn(piece.y.shape)
        piece.call("forward", piece.at, x.data_ptr(), None, None, None, count)
        piece.settled(g)
        dx = torch.zeros_like(x)
        piece.call("backward", piece.at, g.data_ptr(), x.data_ptr(), None, None, below.at,
                   dx.data_ptr(), count)  # fmt: skip
        found.append((piece.y.clone(), piece.mu.clone(), dx, piece.dweight.clone()))
    (y, mu, dx, dw), (y2, mu2, dx2, dw2) = found
    assert torch.equal(y, y2)
    terms = y.double().abs().mean((0, 1, 2))
    assert_close(mu2, mu, terms, 120)
    torch.testing.assert_close(dx2, dx)
    torch.testing.assert_close(dw2, dw, rtol=1e-5, atol=1e-4)


@needs_compiler
def test_the_library_is_compiled_once_and_never_half(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kernels._loaded.cache_clear()
    try:
        assert kernels.library() is kernels.library()
        made = list((tmp_path / "bnbook").iterdir())
        assert [path.suffix for path in made] == [".so"]
        stamp = made[0].stat().st_mtime_ns
        kernels._loaded.cache_clear()
        assert kernels.library() is not None
        assert made[0].stat().st_mtime_ns == stamp
    finally:
        kernels._loaded.cache_clear()


def test_without_a_compiler_there_are_no_kernels(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert kernels.compiler() is None
    assert kernels.library() is None


def test_a_compiler_that_fails_is_told_of(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = tmp_path / "kernels.cpp"
    source.write_text("this is no C++")
    broken = tmp_path / "compiler"
    broken.write_text("#!/bin/sh\necho no such thing as a vector >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(kernels, "compiler", lambda: str(broken))
    with pytest.warns(UserWarning, match="autograd.*no such thing as a vector"):
        assert kernels.library() is None
    assert not list(itertools.chain(tmp_path.glob("bnbook/*")))

"""Crops and flips against a loop over images, and the draws against a uniform distribution."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bnbook.errors import BnbookError
from bnbook.training import augment


def one_by_one(images, crops, pad):
    """Pixel by pixel of the definition, without padding or indexing by tensors."""
    n, _, height, width = images.shape
    out = torch.zeros_like(images)
    for i in range(n):
        top, left, flip = crops[i].tolist()
        for h in range(height):
            for w in range(width):
                row = top + h - pad
                column = left + (width - 1 - w if flip else w) - pad
                if 0 <= row < height and 0 <= column < width:
                    out[i, :, h, w] = images[i, :, row, column]
    return out


def every_crop(pad):
    size = torch.arange(2 * pad + 1)
    return torch.cartesian_prod(size, size, torch.arange(2))


def test_every_crop_and_flip_of_a_small_image():
    crops = every_crop(4)
    assert len(crops) == 162
    images = torch.randn(162, 2, 3, 5)
    expected = one_by_one(images, crops, 4)
    assert torch.equal(augment.crop_and_flip(images, crops), expected)


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(*(st.integers(1, 4),) * 4),
    pad=st.integers(0, 3),
    seed=st.integers(0, 2**31),
    channels_last=st.booleans(),
)
def test_random_crops_in_both_memory_formats(shape, pad, seed, channels_last):
    images = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    images = images.to(memory_format=layout)
    crops = augment.crops(1, shape[0], seed, pad)[0]
    found = augment.crop_and_flip(images, crops, pad)
    assert found.is_contiguous(memory_format=layout)
    assert torch.equal(found, one_by_one(images, crops, pad))


def test_the_middle_crop_is_the_image_and_its_flip_the_mirror_image():
    images = torch.arange(24, dtype=torch.uint8).view(1, 2, 3, 4)
    assert torch.equal(augment.crop_and_flip(images, torch.tensor([[4, 4, 0]])), images)
    assert torch.equal(augment.crop_and_flip(images, torch.tensor([[4, 4, 1]])), images.flip(3))


def test_members_share_a_crop_or_have_their_own():
    images, crops = torch.randn(6, 2, 3, 5, 5), augment.crops(1, 12, seed=0)[0]
    shared = augment.crop_and_flip(images.flatten(1, 2), crops[:6]).view_as(images)
    own = augment.crop_and_flip(images.flatten(0, 1), crops).view_as(images)
    for e in range(2):
        member = images[:, e].contiguous()
        assert torch.equal(shared[:, e], augment.crop_and_flip(member, crops[:6]))
        assert torch.equal(own[:, e], augment.crop_and_flip(member, crops[e::2]))


def test_a_seed_means_the_same_crops():
    first = augment.crops(5, 8, seed=3)
    assert first.shape == (5, 8, 3)
    assert first.dtype == torch.int64
    assert torch.equal(first, augment.crops(5, 8, seed=3))
    assert not torch.equal(first, augment.crops(5, 8, seed=4))


def test_crops_do_not_repeat_the_draws_of_the_initial_weights():
    plain = torch.randint(9, (1000, 2), generator=torch.Generator().manual_seed(0))
    same = (augment.crops(1, 1000, seed=0)[0, :, :2] == plain).double().mean()
    assert same.item() == pytest.approx(1 / 9, abs=0.03)


def test_crops_are_uniform_and_independent():
    crops = augment.crops(500, 81, seed=0).view(-1, 3)
    assert crops.amin(0).tolist() == [0, 0, 0]
    assert crops.amax(0).tolist() == [8, 8, 1]
    cell = crops @ torch.tensor([18, 2, 1])
    counts = torch.bincount(cell, minlength=162)
    assert counts.sum() == 40500
    # One fixed draw; a uniform one exceeds either bound once in a thousand seeds.
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3
    assert stats.chisquare(torch.bincount(cell // 18).numpy()).pvalue > 1e-3


@pytest.mark.parametrize(
    ("images", "crops"), [((4, 3, 8, 8), (3, 3)), ((4, 3, 8), (4, 3)), ((4, 3, 8, 8), (4, 2))]
)
def test_shapes_that_do_not_fit(images, crops):
    with pytest.raises(BnbookError, match=r"\(N, C, H, W\) and crops \(N, 3\), found"):
        augment.crop_and_flip(torch.zeros(images), torch.zeros(crops, dtype=torch.int64))


def test_a_negative_pad():
    with pytest.raises(BnbookError, match="pad must be at least 0, found -1"):
        augment.crops(1, 2, seed=0, pad=-1)


@pytest.mark.gpu
def test_the_gpu_applies_the_same_crops():
    images, crops = torch.randn(32, 3, 32, 32), augment.crops(1, 32, seed=0)[0]
    found = augment.crop_and_flip(images.cuda(), crops.cuda())
    assert torch.equal(found.cpu(), augment.crop_and_flip(images, crops))

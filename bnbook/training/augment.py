"""Random crops and flips of image batches, as tensor operations on the images' device.

Drawing is apart from applying: a seed means the same crops on every device, and members of an
ensemble that share their batches can share the crops.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from bnbook.errors import BnbookError

# Keeps the crops of a seed apart from its batches and initial weights. Below 2**32, for torch's
# CPU generator looks at no more than the last 32 bits of a seed.
_CROP_STREAM = 0xC20F_0000


def crops(steps: int, batch_size: int, seed: int, pad: int = 4) -> Tensor:
    """Draw the crops and flips of a run.

    Drawn on the CPU, so that a seed means the same crops on every device; move them to the images'.

    Parameters
    ----------
    steps, batch_size, seed : int
        Number of batches, size of a batch, and seed.
    pad : int
        Zeros that are added on each side of an image, in pixels.

    Returns
    -------
    Tensor, (steps, batch_size, 3), int64
        Uniform and independent: the top row and the left column of the crop in the padded image, in
        [0, 2*pad], and 1 for a flip, else 0.
    """
    if pad < 0:
        raise BnbookError(f"pad must be at least 0, found {pad}.")
    generator = torch.Generator().manual_seed(_CROP_STREAM + seed)
    shape = (steps, batch_size)
    corners = torch.randint(2 * pad + 1, (*shape, 2), generator=generator)
    flips = torch.randint(2, (*shape, 1), generator=generator)
    return torch.cat((corners, flips), -1)


def crop_and_flip(images: Tensor, crops: Tensor, pad: int = 4) -> Tensor:
    """Pad each image with zeros, cut a window of its size out, and mirror it left to right.

    Source: He, Zhang, Ren & Sun 2016, section 4.2, for CIFAR-10: 4 pixels, a random crop of the
    padded image or of its mirror image.

    Parameters
    ----------
    images : Tensor, (N, C, H, W)
        Contiguous or channels-last; the result is alike. Images of E members as (N, E*C, H, W) get
        one crop for all; as (N*E, C, H, W) each its own.
    crops : Tensor, (N, 3), int64
        Of each image: top, left, flip; see the function `crops`. On the images' device.
    pad : int
        Zeros on each side, in pixels.

    Returns
    -------
    Tensor, (N, C, H, W)

    Raises
    ------
    BnbookError
        When the shapes do not fit.
    """
    if images.dim() != 4 or crops.shape != (len(images), 3):
        raise BnbookError(
            "images must have shape (N, C, H, W) and crops (N, 3), found"
            f" {tuple(images.shape)} and {tuple(crops.shape)}."
        )
    n, _, height, width = images.shape
    top, left, flip = crops.view(n, 3, 1).unbind(1)
    rows = top + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    columns = left + torch.where(flip.bool(), width - 1 - columns, columns)
    padded = F.pad(images, (pad,) * 4).permute(0, 2, 3, 1)
    image = torch.arange(n, device=images.device).view(n, 1, 1)
    cut = padded[image, rows.unsqueeze(2), columns.unsqueeze(1)].permute(0, 3, 1, 2)
    return cut.contiguous() if images.is_contiguous() else cut

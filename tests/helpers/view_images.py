"""helpers.view_images"""

import torch

from satmip_train.views.draws import Params

NO_NORM = torch.zeros(3), torch.ones(3)


def images(n: int, height: int = 60, width: int = 60, seed: int = 0) -> torch.Tensor:
    """Noise over soft shapes, with flat black, white and gray patches, where colour arithmetic has its corner cases."""
    generator = torch.Generator().manual_seed(seed)
    soft = torch.rand(n, 3, 5, 5, generator=generator)
    x = (
        torch.nn.functional.interpolate(soft, (height, width), mode="bicubic") * 255
        + torch.randn(n, 3, height, width, generator=generator) * 12
    )
    x[:, :, :6, :6], x[:, :, -6:, -6:], x[:, :, :6, -6:] = 0, 255, 128
    return x.clamp(0, 255).to(torch.uint8)


def neutral(n: int, height: int, width: int) -> Params:
    """Parameters that change nothing."""
    no, one, zero = torch.zeros(n, dtype=torch.bool), torch.ones(n), torch.zeros(n)
    box, order = torch.tensor([[0, 0, height, width]]).repeat(n, 1), torch.arange(4).repeat(n, 1)
    return Params(box, no, order, one, one, one, zero, no, no, one, no, no, torch.zeros(n, dtype=torch.int64))

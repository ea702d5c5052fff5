"""A view of SimCLR-Sat on a CPU beside torchvision and Pillow, and a step with the last block's class token alone; in turns.

    python tests/benchmarks/views.py          # about two minutes
    python tests/benchmarks/views.py --toy    # seconds, only to see that it works

Both sides begin with a decoded image of 256 x 256 pixels and end with a normalized view of 224.
"""

import argparse
import random
from functools import partial
from unittest.mock import patch

import timing
import torch
from PIL import Image, ImageFilter
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torchvision import transforms as tv

from satmip_train.config import Settings
from satmip_train.models.backbones import create_backbone
from satmip_train.models.class_token import ClassTokenViT
from satmip_train.policies import policy
from satmip_train.views.apply import apply
from satmip_train.views.draws import draw

SIDE, VIEW = 256, 224
MEAN, STD = torch.tensor([0.4, 0.4, 0.4]), torch.tensor([0.25, 0.25, 0.25])


def ours(images: Tensor, seed: int = 0) -> None:
    """Make a view of each image."""
    settings, generator = policy("simclr-sat", VIEW), torch.Generator().manual_seed(seed)
    apply(images, draw(settings, len(images), generator, (SIDE, SIDE)), settings, MEAN, STD)


def theirs(images: list[Image.Image]) -> None:
    """Make a view of each image by torchvision's operations on Pillow images, blur by Pillow, as SLIP does."""
    known = policy("simclr-sat", VIEW)
    jitter = tv.ColorJitter(known.brightness, known.contrast, known.saturation, known.hue)
    chain = tv.Compose(
        [
            tv.RandomResizedCrop(VIEW, scale=known.scale),
            tv.RandomApply([jitter], known.jitter_p),
            tv.RandomGrayscale(known.gray_p),
            tv.RandomApply([tv.Lambda(lambda x: x.filter(ImageFilter.GaussianBlur(random.uniform(*known.sigma))))], known.blur_p),
            tv.RandomHorizontalFlip(known.hflip_p),
            tv.RandomVerticalFlip(known.vflip_p),
            tv.RandomApply([tv.Lambda(lambda x: x.transpose(random.choice(list(Image.Transpose)[2:5])))], known.rot90_p),
            tv.ToTensor(),
            tv.Normalize(MEAN, STD),
        ]
    )
    for image in images:
        chain(image)


def step(backbone: torch.nn.Module, views: Tensor, all_tokens: bool) -> None:
    """Run a forward and a backward pass."""
    with patch.object(ClassTokenViT, "forward", VisionTransformer.forward if all_tokens else ClassTokenViT.forward):
        backbone(views).sum().backward()


def main() -> None:
    """Run both parts and print their rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--toy", action="store_true", help="small and short")
    chosen = parser.parse_args()
    count, batch, rounds = (4, 1, 2) if chosen.toy else (256, 8, chosen.rounds)
    torch.set_num_threads(1)
    report = timing.Report("views", ("torch", "torchvision", "timm", "pillow"))
    noise = torch.randint(0, 256, (count, 3, SIDE // 8, SIDE // 8), generator=torch.Generator().manual_seed(0)).float()
    images = torch.nn.functional.interpolate(noise, (SIDE, SIDE), mode="bilinear").to(torch.uint8)
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    works = {"torchvision and Pillow": partial(theirs, pictures), "satmip": partial(ours, images)}
    timing.in_turns(works, 1)
    seconds = timing.in_turns(works, rounds)
    report.table(f"A view of {VIEW} pixels, one thread, CPU time: how much faster satmip is")
    for name, took in seconds.items():
        report.row(name, 1e3 / timing.rate(count, took), "ms", timing.ratios(took, seconds["satmip"]))
    backbone, views = (
        create_backbone(Settings.model_validate({"backbone_args": {"num_heads": 12}})),
        torch.randn(batch, 3, VIEW, VIEW),
    )
    passes = {"all tokens": partial(step, backbone, views, True), "class token alone": partial(step, backbone, views, False)}
    timing.in_turns(passes, 1)
    seconds = timing.in_turns(passes, rounds)
    report.table(f"Forward and backward of ViT-S/16, batch {batch}, one thread, CPU time: share of the time of all tokens")
    for name, took in seconds.items():
        report.row(name, timing.rate(1, took) ** -1, "s", timing.ratios(took, seconds["all tokens"]))
    report.save()


if __name__ == "__main__":
    main()

"""Views on the device against Pillow and torchvision, operation by operation."""

from collections.abc import Callable
from dataclasses import fields, replace
from math import ceil

import numpy as np
import pytest
import torch
from helpers.view_images import NO_NORM, images, neutral
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from scipy.stats import ks_2samp
from torchvision import transforms
from torchvision.transforms import functional as tv

from satmip_train import policies
from satmip_train.views import apply, colour, cpu, draws
from satmip_train.views.draws import Params

TORCHVISION_OPS = [tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue]


def view(x: torch.Tensor, params: Params, size: int) -> torch.Tensor:
    return apply.apply(x, params, policies.policy("simclr-sat", size), *NO_NORM)


def boxes(n: int, height: int, width: int, seed: int) -> torch.Tensor:
    generator = np.random.default_rng(seed)
    high, wide = generator.integers(1, height + 1, n), generator.integers(1, width + 1, n)
    top, left = generator.integers(0, height - high + 1), generator.integers(0, width - wide + 1)
    return torch.from_numpy(np.stack([top, left, high, wide], axis=1))


@pytest.mark.parametrize(("height", "width", "size"), [(60, 60, 60), (100, 70, 24), (40, 52, 64), (224, 224, 64), (224, 224, 224)])
def test_crop_resize_is_pillows(height: int, width: int, size: int) -> None:
    n = 24
    x, box = images(n, height, width), boxes(n, height, width, seed=size)
    got = (view(x, replace(neutral(n, height, width), box=box), size) * 255).round()
    for i, (top, left, high, wide) in enumerate(box.tolist()):
        image = Image.fromarray(x[i].permute(1, 2, 0).numpy())
        expected = image.crop((left, top, left + wide, top + high)).resize((size, size), Image.Resampling.BILINEAR)
        difference = (got[i].permute(1, 2, 0) - torch.from_numpy(np.array(expected)).float()).abs()
        assert difference.max() <= 1
        assert difference.mean() < 0.3


def test_a_whole_image_of_the_views_size_is_itself() -> None:
    x = images(3)
    torch.testing.assert_close(view(x, neutral(3, 60, 60), 60), x / 255, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("operation", "low", "high"), [(0, 0.6, 1.4), (1, 0.6, 1.4), (2, 0.0, 1.4), (3, -0.5, 0.5)])
def test_each_colour_operation_is_torchvisions(operation: int, low: float, high: float) -> None:
    x, amount = images(9) / 255, torch.linspace(low, high, 9)
    if operation == colour.HUE:
        got = colour.shift_hue(x.unbind(1), amount)
    elif operation == colour.CONTRAST:
        got = colour.change_contrast(x.unbind(1), amount)
    else:
        got = colour.brighten_or_saturate(x.unbind(1), torch.full((9,), operation), amount)
    expected = torch.stack([TORCHVISION_OPS[operation](x[i], float(amount[i])) for i in range(9)])
    torch.testing.assert_close(torch.stack(got, 1), expected, atol=3e-6, rtol=0)


def test_luma_is_torchvisions() -> None:
    x = images(4) / 255
    torch.testing.assert_close(colour.luma(x.unbind(1)), tv.rgb_to_grayscale(x)[:, 0], atol=1e-6, rtol=0)


def test_jitter_is_torchvisions_in_each_of_the_24_orders() -> None:
    order = torch.cartesian_prod(*[torch.arange(4)] * 4)
    order = order[[len(set(row.tolist())) == 4 for row in order]]
    assert len(order) == 24
    x = images(24, seed=3)
    params = draws.draw(policies.policy("simclr-sat", 60), 24, torch.Generator().manual_seed(1), (60, 60))
    params = replace(neutral(24, 60, 60), jitter=torch.arange(24) != 5, order=order, brightness=params.brightness, hue=params.hue)
    params = replace(params, contrast=params.brightness.flip(0), saturation=params.brightness.roll(1))
    got = view(x, params, 60)
    for i in range(24):
        expected = x[i] / 255
        amounts = [params.brightness, params.contrast, params.saturation, params.hue]
        for operation in order[i].tolist() if i != 5 else []:
            expected = TORCHVISION_OPS[operation](expected, float(amounts[operation][i]))
        torch.testing.assert_close(got[i], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [32, 112, 224])
def test_blur_is_torchvisions_with_repeated_borders(size: int) -> None:
    policy = policies.policy("simclr-sat", size)
    radius, x = ceil(3 * policy.sigma[1]), images(5, size, size) / 255
    sigma = torch.linspace(*policy.sigma, 5)
    got = colour.blur(x, sigma, radius)
    padded = torch.nn.functional.pad(x, [radius] * 4, mode="replicate")
    for i in range(5):
        expected = tv.gaussian_blur(padded[i], [2 * radius + 1] * 2, [float(sigma[i])] * 2)[:, radius:-radius, radius:-radius]
        torch.testing.assert_close(got[i], expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(cpu.blur(x[i], float(sigma[i]), radius), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("sigma", "mean", "largest"), [(0.1, 0.0, 0), (0.5, 1.0, 6), (1.0, 1.0, 6), (2.0, 0.5, 6)])
def test_blur_is_near_pillows_approximation(sigma: float, mean: float, largest: float) -> None:
    x = images(1, 224, 224)
    expected = np.asarray(Image.fromarray(x[0].permute(1, 2, 0).numpy()).filter(ImageFilter.GaussianBlur(sigma)), dtype=np.float32)
    got = colour.blur(x / 255, torch.tensor([sigma]), 6)[0].permute(1, 2, 0).numpy() * 255
    difference = np.abs(got.round() - expected)
    assert difference.mean() <= mean
    assert difference.max() <= largest


@pytest.mark.parametrize(("height", "width", "size"), [(60, 60, 60), (90, 70, 33), (40, 52, 64), (224, 224, 96)])
def test_what_a_gpu_does_at_once_a_cpu_does_one_by_one(height: int, width: int, size: int) -> None:
    n = 60
    policy = replace(policies.policy("simclr-sat", size), hue=0.5, contrast=1.0, saturation=1.0)
    params = draws.draw(policy, n, torch.Generator().manual_seed(size), (height, width))
    x = images(n, height, width)
    expected = apply.batched(x, params, policy)
    torch.testing.assert_close(apply.one_by_one(x, params, policy), expected, atol=3e-5, rtol=0)


@pytest.mark.parametrize("make", [apply.batched, apply.one_by_one])
@pytest.mark.parametrize("size", [60, 33])
def test_flips_and_rotations_are_exact(size: int, make: Callable[..., torch.Tensor]) -> None:
    n, policy = 16, policies.policy("simclr-sat", size)
    x = images(1).repeat(n, 1, 1, 1)
    on = torch.arange(n)
    params = replace(neutral(n, 60, 60), hflip=on % 2 == 1, vflip=on // 2 % 2 == 1, rot90=on // 4)
    got, plain = make(x, params, policy), make(x[:1], neutral(1, 60, 60), policy)[0]
    for i in range(n):
        expected = plain.flip(2) if i % 2 else plain
        expected = expected.flip(1) if i // 2 % 2 else expected
        torch.testing.assert_close(got[i], torch.rot90(expected, i // 4, (1, 2)), atol=1e-6, rtol=0)


def test_the_whole_chain_is_the_steps_in_their_order() -> None:
    n, size = 40, 48
    x, policy = images(n, seed=9), policies.policy("simclr-sat", size)
    params = draws.draw(policy, n, torch.Generator().manual_seed(2), (60, 60))
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.1])
    got = apply.apply(x, params, policy, mean, std)
    resized = view(x, replace(neutral(n, 60, 60), box=params.box), size)
    radius = ceil(3 * policy.sigma[1])
    for i in range(n):
        y = resized[i]
        for operation in params.order[i].tolist() if params.jitter[i] else []:
            amounts = [params.brightness, params.contrast, params.saturation, params.hue]
            y = TORCHVISION_OPS[operation](y, float(amounts[operation][i]))
        y = tv.rgb_to_grayscale(y, 3) if params.gray[i] else y
        if params.blur[i]:
            y = torch.nn.functional.pad(y, [radius] * 4, mode="replicate")
            y = tv.gaussian_blur(y, [2 * radius + 1] * 2, [float(params.sigma[i])] * 2)[:, radius:-radius, radius:-radius]
        y = tv.hflip(y) if params.hflip[i] else y
        y = tv.vflip(y) if params.vflip[i] else y
        y = torch.rot90(y, int(params.rot90[i]), (1, 2))
        torch.testing.assert_close(got[i], tv.normalize(y, mean.tolist(), std.tolist()), atol=2e-4, rtol=0)


def test_the_same_params_sliced_give_the_same_views() -> None:
    x, policy = images(21), policies.policy("simclr-sat", 32)
    params = draws.draw(policy, 21, torch.Generator().manual_seed(0), (60, 60))
    whole = apply.apply(x, params, policy, *NO_NORM)
    for a, b in [(0, 5), (5, 20), (20, 21)]:
        assert len(params[a:b]) == b - a
        part = apply.apply(x[a:b], params[a:b].to("cpu"), policy, *NO_NORM)
        assert part.shape == (b - a, 3, 32, 32)
        assert torch.equal(part, whole[a:b])
    channels_last = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(apply.apply(channels_last, params, policy, *NO_NORM), whole)


def test_views_are_float32_contiguous_and_have_no_gradient() -> None:
    policy = policies.policy("crop", 16)
    params = draws.draw(policy, 2, torch.Generator().manual_seed(0), (60, 60))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = apply.apply(images(2), params, policy, *NO_NORM)
    assert got.dtype == torch.float32
    assert got.is_contiguous()
    assert not got.requires_grad


def test_the_draw_follows_from_the_generator_alone() -> None:
    policy = policies.policy("simclr-sat", 64)
    first, second = (draws.draw(policy, 50, torch.Generator().manual_seed(4), (224, 224)) for _ in range(2))
    other = draws.draw(policy, 50, torch.Generator().manual_seed(5), (224, 224))
    for field in fields(Params):
        assert torch.equal(getattr(first, field.name), getattr(second, field.name))
        assert not torch.equal(getattr(first, field.name), getattr(other, field.name))


def test_drawn_parameters_have_the_policys_law() -> None:
    n = 40_000
    params = draws.draw(policies.policy("simclr-sat", 224), n, torch.Generator().manual_seed(0), (224, 224))
    for name, probability in {"jitter": 0.8, "gray": 0.2, "blur": 0.5, "hflip": 0.5, "vflip": 0.5}.items():
        assert abs(getattr(params, name).double().mean() - probability) < 0.01, name
    for turns in range(4):
        assert abs((params.rot90 == turns).double().mean() - 0.25) < 0.01
    for name, low, high in [
        ("brightness", 0.6, 1.4),
        ("contrast", 0.6, 1.4),
        ("saturation", 0.6, 1.4),
        ("hue", -0.1, 0.1),
        ("sigma", 0.1, 2),
    ]:
        values = getattr(params, name).double()
        unit = (values - low) / (high - low)
        assert -1e-6 <= unit.min() < 0.001
        assert 0.999 < unit.max() <= 1 + 1e-6
        assert abs(unit.mean() - 0.5) < 0.01
    code = (params.order * torch.tensor([64, 16, 4, 1])).sum(1)
    _, counts = code.unique(return_counts=True)
    assert len(counts) == 24
    assert (counts.double() / n * 24 - 1).abs().max() < 0.1
    drawn = torch.stack([getattr(params, field.name).double() for field in fields(Params) if field.name not in ("box", "order")])
    correlation = torch.corrcoef(drawn) - torch.eye(len(drawn))
    assert correlation.abs().max() < 0.03


@pytest.mark.parametrize(("height", "width"), [(224, 224), (60, 200), (300, 40)])
def test_crops_have_torchvisions_law(height: int, width: int) -> None:
    n = 6000
    policy = policies.policy("simclr-sat", 224)
    got = draws.draw_boxes(policy, n, torch.Generator().manual_seed(0), (height, width)).double()
    torch.manual_seed(1)
    image = torch.empty(3, height, width)
    expected = torch.tensor([transforms.RandomResizedCrop.get_params(image, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(n)]).double()
    for column in range(4):
        assert ks_2samp(got[:, column], expected[:, column]).statistic < 0.03
    whole = (got[:, 2:] == expected[:, 2:].mode(0).values).all(1).double().mean()
    assert abs(whole - (expected[:, 2:] == expected[:, 2:].mode(0).values).all(1).double().mean()) < 0.03


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 90), width=st.integers(1, 90), seed=st.integers(0, 1000), name=st.sampled_from(["simclr-sat", "crop"]))
def test_crops_lie_inside_the_image(height: int, width: int, seed: int, name: str) -> None:
    policy = policies.policy(name, 16)
    top, left, high, wide = draws.draw_boxes(policy, 50, torch.Generator().manual_seed(seed), (height, width)).unbind(1)
    assert min(top.min(), left.min()) >= 0
    assert min(high.min(), wide.min()) >= 1
    assert (top + high).max() <= height
    assert (left + wide).max() <= width


def test_a_crop_that_never_fits_is_torchvisions_central_one() -> None:
    policy = policies.policy("simclr-sat", 16)
    never = replace(policy, scale=(5.0, 5.0))
    sizes = [(4, 400, policy), (400, 4, policy), *((h, w, never) for h in (30, 40, 50, 53) for w in (30, 40, 50))]
    for height, width, small in sizes:
        box = draws.draw_boxes(small, 3, torch.Generator().manual_seed(0), (height, width))
        expected = transforms.RandomResizedCrop.get_params(torch.empty(3, height, width), list(small.scale), list(small.ratio))
        assert box.tolist() == [list(expected)] * 3


@pytest.mark.parametrize(("ratio", "side"), [(4.0, 1), (0.25, 0)])
def test_a_crop_may_reach_from_side_to_side(ratio: float, side: int) -> None:
    policy = replace(policies.policy("crop", 16), scale=(0.5, 0.5), ratio=(ratio, ratio))
    size = (50, 100) if side else (100, 50)
    boxes = draws.draw_boxes(policy, 200, torch.Generator().manual_seed(0), size)
    assert (boxes[:, 2 + side] == 100).all()
    assert boxes[:, 1 - side].unique().tolist() == list(range(26))  # and anywhere along the other one


def test_the_crop_policy_only_crops() -> None:
    x, policy = images(30), policies.policy("crop", 32)
    params = draws.draw(policy, 30, torch.Generator().manual_seed(0), (60, 60))
    assert (params.box[:, 2] * params.box[:, 3]).min() >= 0.5 * 3600 * 0.97
    expected = view(x, replace(neutral(30, 60, 60), box=params.box), 32)
    torch.testing.assert_close(apply.apply(x, params, policy, *NO_NORM), expected, atol=1e-5, rtol=0)


def test_the_policy_of_moco_v2_neither_flips_vertically_nor_rotates() -> None:
    policy = policies.policy("moco-v2", 32)
    assert replace(policy, vflip_p=0.5, rot90_p=0.75) == policies.policy("simclr-sat", 32)
    params = draws.draw(policy, 200, torch.Generator().manual_seed(0), (60, 60))
    assert not params.vflip.any()
    assert not params.rot90.any()
    assert params.hflip.any()


def test_the_policy_north_up_keeps_where_shadows_fall_and_how_large_things_are() -> None:
    policy = policies.policy("north-up", 32)
    params = draws.draw(policy, 200, torch.Generator().manual_seed(0), (60, 60))
    assert not params.vflip.any()
    assert not params.rot90.any()
    assert not params.gray.any()
    assert (params.box[:, 2] * params.box[:, 3]).min() >= 0.5 * 3600 * 0.97
    assert params.jitter.any()
    assert params.blur.any()


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ValueError, match=r'"simclr".*"simclr-sat"'):
        policies.policy("simclr", 224)


@pytest.mark.parametrize("jitter", [0.0, 0.5, 2.0, 3.0])
def test_the_jitter_is_as_strong_as_asked_for(jitter: float) -> None:
    policy = policies.policy("simclr-sat", 32, jitter)
    drawn = draws.draw(policy, 4000, torch.Generator().manual_seed(0), (32, 32))
    for factor in (drawn.brightness, drawn.contrast, drawn.saturation):
        assert factor.min().item() == pytest.approx(max(1 - 0.4 * jitter, 0), abs=0.01)
        assert factor.max().item() == pytest.approx(1 + 0.4 * jitter, abs=0.01)
    assert drawn.hue.abs().max().item() == pytest.approx(0.1 * jitter, abs=0.01)

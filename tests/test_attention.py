"""The implementation of attention that a run uses: what is chosen, and that a wrong one never is."""

from collections.abc import Callable
from unittest.mock import patch

import pytest
import torch
from tiny_networks import tiny_settings
from torch.nn.attention import SDPBackend

from satmip_train import attention
from satmip_train.backbones import create_backbone
from satmip_train.config import Settings

CPU = torch.device("cpu")


def inputs() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(12, 3, 17, 8, generator=generator, requires_grad=True) for _ in range(3)]


class Stopwatch:
    """Runs what it is given and says what it was told to."""

    def __init__(self, *seconds: float) -> None:
        self.seconds = list(seconds)

    def __call__(self, work: Callable[[], object]) -> float:
        work()
        return self.seconds.pop(0)


def altered(kind: str, backend: SDPBackend | None) -> Callable[..., tuple[torch.Tensor, ...]]:
    """Let a CPU, which has one implementation and the plain formula, seem to have them all, of which one fails."""
    real = attention._both_passes

    def passes(given: list[torch.Tensor], wanted: SDPBackend) -> tuple[torch.Tensor, ...]:
        if wanted is backend and kind == "refuses":
            raise RuntimeError("No available kernel. Aborting execution.")
        out, *gradients = real(given, SDPBackend.MATH)
        if wanted is backend:
            gradients[1] = gradients[1] * (1.2 if kind == "wrong" else float("nan"))
        return out, *gradients

    return passes


def test_the_fastest_is_chosen() -> None:
    with patch.object(attention, "_both_passes", altered("", None)):
        choice = attention.fastest(inputs(), Stopwatch(3.0, 1.0, 2.0))
    assert choice == attention.Choice("cudnn", {"flash": 3.0, "cudnn": 1.0, "efficient": 2.0})
    assert str(choice) == "cudnn, the fastest here (cudnn 1000.00 ms, efficient 2000.00 ms, flash 3000.00 ms)"


@pytest.mark.parametrize("kind", ["refuses", "wrong", "not finite"])
def test_one_that_refuses_or_is_wrong_is_not_chosen(kind: str) -> None:
    with patch.object(attention, "_both_passes", altered(kind, SDPBackend.FLASH_ATTENTION)):
        choice = attention.fastest(inputs(), Stopwatch(2.0, 1.0))
    assert choice == attention.Choice("efficient", {"cudnn": 2.0, "efficient": 1.0})


def test_where_none_can_torch_chooses() -> None:
    with patch.object(attention, "MEASURED", ("cudnn",)):
        assert attention.fastest(inputs(), Stopwatch()) == attention.Choice("torch", {})


def test_what_a_machine_has_is_measured_and_right() -> None:
    assert attention.fastest(inputs(), Stopwatch(1.0, 2.0)) == attention.Choice("flash", {"flash": 1.0})  # a CPU has no other


@pytest.mark.parametrize("setting", ["flash", "math", "torch"])
def test_what_is_asked_for_is_not_measured(setting: str) -> None:
    choice = attention.choose(setting, create_backbone(tiny_settings()), torch.device("cuda"), torch.float32)
    assert choice == attention.Choice(setting, {})
    assert str(choice) == ("torch's own choice" if setting == "torch" else setting)


def test_torch_chooses_on_a_cpu_and_for_other_networks() -> None:
    resnet = create_backbone(Settings(backbone="resnet10t", backbone_args={}))
    assert attention.choose("auto", create_backbone(tiny_settings()), CPU, torch.float32).name == "torch"
    assert attention.choose("auto", resnet, torch.device("cuda"), torch.bfloat16).name == "torch"


def test_the_shape_is_that_of_the_papers_network() -> None:
    with torch.device("meta"):
        assert attention.head_shape(create_backbone(Settings())) == (12, 197, 32)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_has_a_fastest_one() -> None:
    choice = attention.choose("auto", create_backbone(Settings()), torch.device("cuda"), torch.bfloat16)
    assert choice.name == min(choice.seconds, key=choice.seconds.__getitem__)
    assert len(choice.seconds) >= 2

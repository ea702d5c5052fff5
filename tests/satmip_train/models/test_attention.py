"""The implementation of attention that a run uses: what is chosen, and that a wrong one never is."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from helpers.tiny_networks import tiny_settings

from satmip_train.config import Settings
from satmip_train.distributed import Job
from satmip_train.models.backbones import create_backbone
from satmip_train.training import attention

CPU = Job(torch.device("cpu"))


def packed() -> torch.Tensor:
    return torch.randn(12, 17, 3, 3, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)


class Stopwatch:
    """Runs what it is given and says what it was told to."""

    def __init__(self, *seconds: float) -> None:
        self.seconds = list(seconds)

    def __call__(self, work: Callable[[], object]) -> float:
        work()
        return self.seconds.pop(0)


def altered(kind: str, name: str | None) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """Let a CPU, which has one implementation and the plain formula, seem to have them all, of which one fails."""
    real = attention._both_passes

    def passes(given: torch.Tensor, wanted: str) -> tuple[torch.Tensor, torch.Tensor]:
        if wanted == name and kind == "refuses":
            raise RuntimeError("No available kernel. Aborting execution.\nLong advice")
        if wanted == name and kind == "breaks":
            raise KeyError
        out, gradient = real(given, "math")
        if wanted == name:
            gradient = gradient * (1.2 if kind == "wrong" else float("nan"))
        return out, gradient

    return passes


def test_the_fastest_is_chosen() -> None:
    with patch.object(attention, "_both_passes", altered("", None)):
        choice = attention.fastest(packed(), Stopwatch(3.0, 1.0, 2.0, 4.0))
    assert choice == attention.Choice("cudnn", {"flash": 3.0, "cudnn": 1.0, "efficient": 2.0, "packed": 4.0})
    told = "cudnn 1000.00 ms, efficient 2000.00 ms, flash 3000.00 ms, packed 4000.00 ms"
    assert str(choice) == f"cudnn, the fastest here ({told})"


def test_each_is_asked_for_all_views_at_once_from_the_first() -> None:
    """A kernel of several forms keeps the one that is the fastest at its first call."""
    asked: dict[str, list[int]] = {}
    real = altered("", None)

    def passes(given: torch.Tensor, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        asked.setdefault(name, []).append(len(given))
        return real(given, name)

    with patch.object(attention, "_both_passes", passes):
        attention.fastest(packed(), Stopwatch(1.0, 1.0, 1.0, 1.0))
    assert asked == {"math": [attention._CHECKED], **{name: [len(packed())] * 2 for name in attention.MEASURED}}


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("refuses", "No available kernel. Aborting execution."),
        ("breaks", "KeyError"),
        ("wrong", "its numbers are not those of the formula"),
        ("not finite", "its numbers are not those of the formula"),
    ],
)
def test_one_that_refuses_or_is_wrong_is_not_chosen(kind: str, reason: str) -> None:
    with patch.object(attention, "_both_passes", altered(kind, "flash")):
        choice = attention.fastest(packed(), Stopwatch(2.0, 1.0), {"packed": "needs a GPU"})
    assert choice == attention.Choice("efficient", {"cudnn": 2.0, "efficient": 1.0}, {"packed": "needs a GPU", "flash": reason})
    assert str(choice).endswith(f"; not packed: needs a GPU; not flash: {reason}")


def test_where_none_can_torch_chooses() -> None:
    with patch.object(attention, "MEASURED", ("cudnn",)):
        choice = attention.fastest(packed(), Stopwatch())
    assert (choice.name, choice.seconds, set(choice.refused)) == ("torch", {}, {"cudnn"})


def test_what_a_machine_has_is_measured_and_right() -> None:
    choice = attention.fastest(packed(), Stopwatch(1.0, 2.0), {"packed": "needs a GPU"})
    # A CPU has no other.
    assert (choice.name, choice.seconds, set(choice.refused)) == ("flash", {"flash": 1.0}, {"packed", "cudnn", "efficient"})


def test_parts_are_read_out_of_the_packed_product_as_timm_does() -> None:
    """Also where heads and tokens are as many, so that a wrong order would fit."""
    qkv = torch.randn(2, 4, 3, 4, 8)
    out = attention.attend(qkv, "math").view(2, 4, 4, 8)
    query, key, value = (qkv[1, :, part, 2] for part in range(3))
    torch.testing.assert_close(out[1, :, 2], (query @ key.T / 8**0.5).softmax(1) @ value)


@pytest.mark.parametrize("setting", ["flash", "math", "torch"])
def test_what_is_asked_for_is_not_measured(setting: str) -> None:
    choice = attention.choose(setting, create_backbone(tiny_settings()), Job(torch.device("cuda")), torch.float32)
    assert choice == attention.Choice(setting)
    assert str(choice) == ("torch's own choice" if setting == "torch" else setting)


def test_torch_chooses_on_a_cpu_and_for_other_networks() -> None:
    resnet = create_backbone(Settings(backbone="resnet10t", backbone_args={}))
    assert attention.choose("auto", create_backbone(tiny_settings()), CPU, torch.float32).name == "torch"
    assert attention.choose("auto", resnet, Job(torch.device("cuda")), torch.bfloat16).name == "torch"


def test_the_shape_is_that_of_the_papers_network() -> None:
    with torch.device("meta"):
        assert attention.head_shape(create_backbone(Settings())) == (12, 197, 32)


def measured(rank: int, kind: str) -> attention.Choice:
    """What a rank would find by itself: each another one; the main rank also finds what the others do not have, or nothing."""
    if rank == 0 and kind == "fails":
        raise torch.OutOfMemoryError("out of memory")
    name = ("math", "flash")[rank] if kind == "differs" else "cudnn"
    return attention.Choice(name, {name: 1.0})


def work(rank: int, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    job, found = Job(torch.device("cpu"), rank, 2), {}
    for kind in ("differs", "fails", "refuses"):
        try:
            found[kind] = attention.agreed(job, packed(), partial(measured, rank, kind)).name
        except (ValueError, torch.OutOfMemoryError) as error:
            found[kind] = str(error)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_ranks_take_what_the_main_one_measured_and_none_waits_for_one_that_cannot(tmp_path: Path) -> None:
    mp.spawn(work, args=(str(tmp_path),), nprocs=2)
    main, other = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert main == {"differs": "math", "fails": "out of memory", "refuses": "cudnn"}
    assert other["differs"] == "math"
    assert other["fails"].startswith("the main rank must decide for all, however: it failed.")
    assert other["refuses"].startswith("every rank must compute attention as the main one, by cudnn, however: rank 1: ")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_has_a_fastest_one() -> None:
    choice = attention.choose("auto", create_backbone(Settings()), Job(torch.device("cuda")), torch.bfloat16)
    assert choice.name == min(choice.seconds, key=choice.seconds.__getitem__)
    assert len(choice.seconds) >= 2
    assert "packed" in choice.seconds

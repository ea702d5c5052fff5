"""The training step on tensors of a GPU that is not there: devices and shapes are followed, nothing is computed.

    python tests/fake_gpu.py SHARDS '{"satmips": {"objective": "satmips", ...}, ...}'

A script, because what it changes in torch holds for a process. It prints one JSON object, run -> "ok" or what went wrong.
torch's fake tensors raise where operands lie on two devices and where the host would need a value (`item`, `nonzero`, a boolean
index); `StayOnDevice` also refuses copies to the host, and copies to the device for which the host would have to wait. Each run
is tried twice, as torch cannot run the backward pass of fake CUDA tensors without a driver:

* "cuda": under CUDA's own autocast to bfloat16 and with fused AdamW; the gradients are made up;
* "gpu", a device that torch knows by name alone: forward and backward in float32, with AdamW.
"""

import json
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from satmip_train.config import Settings
from satmip_train.data.dataset import Dataset, open_dataset
from satmip_train.data.places import read_places
from satmip_train.distributed import Job
from satmip_train.evaluation import features, probes
from satmip_train.training import optim
from satmip_train.training.batches import Resident
from satmip_train.training.plan import RunPlan, plan_run
from satmip_train.training.state import State, build_state
from satmip_train.training.step import Step, batch_keys

FORBIDDEN: dict[str, Callable[[Tensor], Any]] = {
    "a number": lambda x: x.sum().item(),
    "a list": lambda x: x.tolist(),
    "a branch": lambda x: bool(x.any()),
    "an unknown shape": lambda x: x[x > 0],
    "two devices": lambda x: x + torch.empty(3),
    "to the host": lambda x: x.cpu(),
    "a copy that waits": lambda x: torch.empty(3).to(x.device),
    "numbers to the device": lambda x: torch.tensor([1, 2, 3], device=x.device),
}
"""What a step must not do: that these are seen shows that the others did none of it."""


class StayOnDevice(TorchDispatchMode):
    """Refuses a copy to the host, and one to the device out of memory that is not pinned."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        before, after = ([leaf for leaf in tree_leaves(part) if isinstance(leaf, Tensor)] for part in ((args, kwargs), out))
        there, here = ({x.device.type for x in part} - {"meta"} for part in (before, after))
        if there - {"cpu"} and "cpu" in here:
            raise RuntimeError(f"a step must stay on its device, however: {func} gives the host what lay on the device")
        if func is torch.ops.aten._to_copy.default and there == {"cpu"} and here - {"cpu"}:
            pinned = getattr(before[0], "pinned", False) and (kwargs or {}).get("non_blocking")
            if not pinned:
                raise RuntimeError(f"a copy to the device must be queued, however: {before[0].shape} is not pinned")
        return out


class Gpu(backend_registration._DummyBackendModule):
    """What torch asks of a device before autocast may be switched off on it."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        """Return none."""
        return []


def pin(tensor: Tensor) -> Tensor:
    """Stand in for `Tensor.pin_memory`, which needs a driver."""
    tensor.pinned = True  # type: ignore[attr-defined]
    return tensor


def onto(module: nn.Module, mode: FakeTensorMode, device: str) -> None:
    """Replace the tensors of a module by fake ones of the device."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                fake = torch.empty_like(mode.from_tensor(parameter.detach()), device=device)
                part._parameters[name] = nn.Parameter(fake, parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = torch.empty_like(mode.from_tensor(buffer), device=device)


def made_up_gradients(state: State) -> Any:
    """Return what stands in for `Tensor.backward`."""

    def backward(loss: Tensor) -> None:
        assert loss.requires_grad
        for parameter in state.objective.parameters():
            parameter.grad = torch.empty_like(parameter) if parameter.requires_grad else None

    return backward


@contextmanager
def fake_memory() -> Iterator[None]:
    """Let fake tensors be pinned."""
    with patch.object(Tensor, "pin_memory", pin), patch.object(Tensor, "is_pinned", lambda x: getattr(x, "pinned", False)):
        yield


def run(dataset: Dataset, settings: Settings, device: str) -> None:
    """Take a step on a batch of a resident split, and bring some chips to features."""
    plan = plan_run(settings, dataset, Job(torch.device("cpu")))
    state = build_state(plan)
    split = Resident(plan, batch_keys(state), read_places(dataset, settings.split), lambda samples: None)
    plan, objective = replace(plan, job=Job(torch.device(device))), state.objective
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, fake_memory():
        onto(objective, mode, device)
        split._device, values = plan.job.device, split._values
        held = {k: torch.empty_like(mode.from_tensor(v), device=device) if isinstance(v, Tensor) else v for k, v in values.items()}
        split._values = held
        scaler = torch.amp.GradScaler("cuda", enabled=plan.precision == "fp16")
        state = State(objective, objective, optim.build_optimizer(objective, settings), scaler)
        step(plan, state, split)
        with StayOnDevice():
            views = features.resize(held["image"][:4].permute(0, 3, 1, 2), settings.view_size)
            features.run_frozen(objective.backbone, views, plan.job.device, plan.precision)


def step(plan: RunPlan, state: State, split: Resident) -> None:
    """Take a step."""
    take, cuda = Step(plan, state), plan.job.device.type == "cuda"
    assert all(group["fused"] == cuda for group in state.optimizer.param_groups)
    state.objective.train()
    with patch.object(Tensor, "backward", made_up_gradients(state)) if cuda else nullcontext(), StayOnDevice():
        parts = take(split.batch(0))
    assert all(value.device.type == plan.job.device.type for value in parts.values())


def nearest(device: str) -> None:
    """Search for neighbours: in a batch of queries nothing waits for the device."""
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        StayOnDevice(),
        patch.object(probes, "_finite", lambda x, name, device: torch.empty(x.shape, device=device)),
        patch.object(Tensor, "cpu", lambda x: x),
        patch.object(Tensor, "numpy", lambda x: x),
    ):
        found, _ = probes.neighbours(np.empty((5000, 24), np.float32), np.empty((300, 24), np.float32), 20, device)
    assert (*found.shape, found.device.type) == (300, 20, device)  # type: ignore[attr-defined]


def slope(device: str) -> None:
    """Take the gradient of a linear probe: nothing waits for the device but what reads it."""
    with FakeTensorMode(allow_non_fake_inputs=True), StayOnDevice():
        x, y = torch.empty(70_000, 24, device=device), torch.zeros(70_000, dtype=torch.int64, device=device)
        for columns in (1, 5):
            probes._cross_entropy(x, y, torch.empty(columns, 25, dtype=torch.float64, device=device))


PROBES: dict[str, Callable[[str], None]] = {"kNN": nearest, "linear probe": slope}


def forbidden(work: Callable[[Tensor], Any], device: str) -> None:
    """Do what a step must not."""
    with FakeTensorMode(allow_non_fake_inputs=True), fake_memory(), StayOnDevice():
        work(torch.empty(3, device=device))


def attempt(work: Callable[..., None], *arguments: Any) -> str:
    """Return "ok", or what went wrong and where."""
    try:
        work(*arguments)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        return f"{type(error).__name__}: {error}; {[f'{frame.name}:{frame.lineno}' for frame in frames[-12:]]}"
    return "ok"


def attempts(dataset: Dataset, variants: dict[str, dict[str, Any]], device: str) -> dict[str, str]:
    """Return what came of each of the variants and of what is forbidden."""
    found = {f"{name} {device}": attempt(run, dataset, Settings(**changes), device) for name, changes in variants.items()}
    found |= {f"{name} {device}": attempt(work, device) for name, work in PROBES.items()}
    return {**found, **{f"{name} {device}": attempt(forbidden, work, device) for name, work in FORBIDDEN.items()}}


def main() -> None:
    """Run what the command line names on both devices."""
    dataset, variants = open_dataset(sys.argv[1]), json.loads(sys.argv[2])
    FakeTensorMode.avoid_device_init = property(lambda mode: True)  # type: ignore[assignment]
    precise = {name: {**changes, "precision": "fp32"} for name, changes in variants.items()}
    with (
        patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False),
        patch("torch.cuda.is_bf16_supported", lambda **_: True),
    ):
        found = attempts(dataset, variants, "cuda")
    backend_registration._setup_privateuseone_for_python_backend("gpu", backend_module=Gpu())
    print(json.dumps({**found, **attempts(dataset, precise, "gpu")}))


if __name__ == "__main__":
    main()

"""Encoders that work in parts learn what they learn from a whole batch."""

from typing import Any

import pytest
import torch
from helpers.tiny_networks import SHAPE, tiny_batch, tiny_settings
from helpers.toy_shards import write_toy_shards
from helpers.training_runs import TINY
from rich.console import Console

from satmip_train.config import Settings
from satmip_train.data.dataset import open_dataset
from satmip_train.distributed import Job
from satmip_train.errors import UsageError
from satmip_train.objectives import build_objective
from satmip_train.objectives.base import Objective
from satmip_train.training import speed
from satmip_train.training.micro_batch import micro_batched
from satmip_train.training.plan import plan_run
from satmip_train.training.state import build_state
from satmip_train.training.train import train

CASES = {
    "simclr": {"objective": "simclr"},
    "satmip text": {"objective": "satmip"},
    "satmip tabular": {"objective": "satmip", "metadata_encoder": "tabular"},
    "satmips": {"objective": "satmips"},
    "satmips decoupled tabular": {"objective": "satmips", "metadata_encoder": "tabular", "coupled": False},
}


def objective_of(**changes: Any) -> Objective:
    torch.manual_seed(0)
    return build_objective(tiny_settings(**changes), SHAPE).train()


def gradients(objective: Objective) -> tuple[float, dict[str, torch.Tensor]]:
    torch.manual_seed(7)
    loss = objective(tiny_batch(objective))["loss"]
    loss.backward()
    return loss.item(), {name: p.grad for name, p in objective.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("rows", [1, 3, 8, 100])
def test_the_gradient_of_parts_is_that_of_the_whole_batch(case, rows):
    loss, expected = gradients(objective_of(**CASES[case]))
    objective = objective_of(**CASES[case])
    micro_batched(objective, rows)
    got_loss, got = gradients(objective)
    assert got_loss == pytest.approx(loss, abs=1e-5)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        # Sums in another order round by a share of the largest term: torch 2.11 differs by 1.6e-4 of an element. A bias before a
        # batch norm has no gradient but rounding.
        rounding = max(1e-5, 2e-4 * value.abs().max().item())
        torch.testing.assert_close(got[name], value, atol=rounding, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


def test_batch_norms_of_the_head_see_the_whole_batch():
    whole, parts = objective_of(objective="simclr"), objective_of(objective="simclr")
    micro_batched(parts, 2)
    gradients(whole), gradients(parts)
    for (name, one), two in zip(whole.named_buffers(), parts.buffers(), strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-5, msg=name)


def test_dropout_draws_in_the_backward_pass_what_it_drew_in_the_forward():
    """With dropout the loss of parts is another draw; its gradient is that of the parts as one would write them down."""
    changes = {"objective": "satmip", "metadata_encoder": "tabular", "tabular_attention_dropout": 0.3, "tabular_ffn_dropout": 0.3}
    plain, parts = objective_of(**changes), objective_of(**changes)
    forward = plain.metadata_encoder.forward

    def in_parts(batch):
        keys = plain.batch_keys
        return torch.cat([forward({key: batch[key][i : i + 3] for key in keys}) for i in range(0, 8, 3)])

    plain.metadata_encoder.forward = in_parts
    loss, expected = gradients(plain)
    micro_batched(parts, 3)
    got_loss, got = gradients(parts)
    assert got_loss == pytest.approx(loss, abs=1e-6)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, atol=2e-6, rtol=1e-4)


def test_parts_keep_fewer_activations():
    def kept(objective: Objective) -> int:
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            objective(tiny_batch(objective))
        return sum(sizes)

    whole, parts = objective_of(objective="satmip"), objective_of(objective="satmip")
    micro_batched(parts, 2)
    assert kept(parts) < kept(whole) / 3


def test_evaluation_is_not_worked_in_parts():
    objective, rows = objective_of(objective="simclr"), []
    views, forward = tiny_batch(objective)["views"][0], objective.backbone.forward
    objective.backbone.forward = lambda part: rows.append(len(part)) or forward(part)
    micro_batched(objective, 3)
    for training in (True, False):
        objective.train(training)
        with torch.no_grad():
            objective.backbone(views)
    assert rows == [3, 3, 2, 8]


def test_a_backbone_with_batch_norms_is_refused_with_the_reason():
    objective = objective_of(objective="simclr", backbone="resnet10t", backbone_args={}, view_size=32)
    with pytest.raises(ValueError, match="batch norms of this backbone would see a part"):
        micro_batched(objective, 2)


def test_recomputed_activations_change_no_gradient():
    loss, expected = gradients(objective_of(objective="simclr"))
    objective = objective_of(objective="simclr")
    speed.recompute_activations(objective.backbone)
    got_loss, got = gradients(objective)
    assert got_loss == loss
    assert all(torch.equal(got[name], value) for name, value in expected.items())


def test_a_backbone_that_cannot_recompute_is_refused():
    with pytest.raises(ValueError, match="knows no --grad-checkpointing"):
        speed.recompute_activations(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("name", ["auto", "torch", "flash", "cudnn", "efficient", "math"])
def test_each_attention_has_the_same_loss_also_behind_a_mask(name):
    objective = objective_of(objective="satmip")
    expected = objective(tiny_batch(objective))["loss"].item()
    with speed.attention(name):
        assert objective(tiny_batch(objective))["loss"].item() == pytest.approx(expected, abs=1e-5)


def test_tf32_is_set_and_set_back():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    for allowed, name in ((True, "high"), (False, "highest")):
        with speed.tf32(allowed):
            assert torch.get_float32_matmul_precision() == name
            assert torch.backends.cudnn.allow_tf32 == allowed
        assert before == (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32)


def test_a_run_takes_the_settings_and_refuses_what_cannot_be(tmp_path):
    toy = open_dataset(write_toy_shards(tmp_path / "shards", {"train": 16}, size=(24, 24)))
    common = {**TINY, "objective": "simclr", "epochs": 1, "log_every": 1}
    job, quiet = Job(torch.device("cpu")), Console(quiet=True)
    changes = {"plain": {}, "parts": {"micro_batch": 3}, "checkpointed": {"grad_checkpointing": True}}
    losses = {}
    for name, change in changes.items():
        train(Settings(**common, **change), toy, tmp_path / name, job, quiet)
        lines = (tmp_path / name / "log.jsonl").read_text().splitlines()
        losses[name] = [float(line.split('"loss": ')[1].split(",")[0]) for line in lines]
    assert losses["parts"] == pytest.approx(losses["plain"], rel=1e-4)
    assert losses["checkpointed"] == losses["plain"]
    resnet = {**common, "backbone": "resnet10t", "backbone_args": {}, "view_size": 32, "micro_batch": 2}
    with pytest.raises(UsageError, match="--micro-batch would change"):
        build_state(plan_run(Settings(**resnet), toy, job))

"""The exported backbone is what timm loads."""

import json

import pytest
import timm
import torch
from rich.console import Console
from test_train_resume import TINY
from toy_shards import write_toy_shards

from satmip_train import checkpoint
from satmip_train.config import Settings
from satmip_train.errors import UsageError
from satmip_train.export import export_backbone, load_backbone
from satmip_train.job import Job
from satmip_train.plan import plan_run
from satmip_train.shards import open_dataset
from satmip_train.train import build_state, save, train

CASES = {
    "vit": {},
    "vit of mean pooling": {"backbone": "vit_base_patch16_rpn_224", "cls_token_std": None},
    "resnet": {"backbone": "resnet10t", "backbone_args": {}, "view_size": 32},
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return open_dataset(write_toy_shards(tmp_path_factory.mktemp("toy"), {"train": 16}, size=(24, 24)))


@pytest.mark.parametrize("name", CASES)
def test_timm_loads_the_files_and_gives_equal_features(toy, tmp_path, name):
    settings = Settings(**{**TINY, "objective": "simclr", **CASES[name]})
    plan = plan_run(settings, toy, Job(torch.device("cpu")))
    state = build_state(plan)
    save(plan, state, tmp_path)
    export_backbone(tmp_path)
    config = json.loads((tmp_path / "backbone.json").read_text())
    views = torch.randn(3, 3, settings.view_size, settings.view_size)
    with torch.no_grad():
        expected = state.objective.backbone.eval()(views)
        path = str(tmp_path / "backbone.safetensors")
        model = timm.create_model(config["model"], **config["args"], num_classes=0, checkpoint_path=path).eval()
        assert torch.equal(model(views), expected)
        loaded, _ = load_backbone(tmp_path)
        assert torch.equal(loaded(views), expected)
    assert not loaded.training
    assert expected.shape == (3, config["features"])


def test_the_config_says_what_an_evaluation_needs(toy, tmp_path):
    settings = Settings(**{**TINY, "objective": "satmip", "max_steps": 1})
    train(settings, toy, tmp_path, Job(torch.device("cpu")), Console(quiet=True))
    _, config = load_backbone(tmp_path / "backbone.safetensors")
    assert (config["model"], config["view_size"], config["step"]) == ("vit_small_patch16_224", 16, 1)
    assert config["args"]["num_heads"] == 2
    assert config["mean"] == list(toy.mean)
    assert config["dataset"]["fingerprint"] == toy.fingerprint
    assert Settings(**config["settings"]) == settings
    assert config["versions"] == checkpoint.versions()


def test_a_run_without_a_checkpoint_or_an_export_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"no last.pt in .*Train first"):
        export_backbone(tmp_path)
    with pytest.raises(UsageError, match="Run: satmip-train export"):
        load_backbone(tmp_path)

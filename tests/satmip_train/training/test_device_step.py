"""A step on a GPU asks the host nothing, shown without a GPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.fake_gpu import FORBIDDEN, PROBES
from helpers.toy_shards import write_toy_shards
from helpers.training_runs import TINY

from satmip_train.objectives import OBJECTIVES

VARIANTS = {
    **{name: {"objective": name, "policy": "simclr-sat" if name == "satmips" else "crop"} for name in OBJECTIVES},
    "tabular": {"objective": "satmips", "metadata_encoder": "tabular", "coupled": False, "loss_gather": "slip", "policy": "crop"},
    "siglip": {"objective": "satmip", "metadata_loss": "siglip", "mask_same_place": True, "policy": "crop"},
    "half": {"objective": "satmips", "negatives": "cross", "precision": "fp16", "micro_batch": 3, "policy": "crop"},
    "resnet": {"objective": "simclr", "backbone": "test_resnet", "backbone_args": {}, "policy": "crop", "grad_checkpointing": True},
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    shards = write_toy_shards(tmp_path_factory.mktemp("toy"), {"train": 16}, shards=1, size=(24, 24))
    variants = {name: {**TINY, "geo_clusters": 3, "precision": "bf16", **changes} for name, changes in VARIANTS.items()}
    command = [sys.executable, str(Path(__file__).parents[2] / "helpers/fake_gpu.py"), str(shards), json.dumps(variants)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert run.returncode == 0, run.stderr
    return dict(json.loads(run.stdout.splitlines()[-1]))


@pytest.mark.parametrize("device", ["cuda", "gpu"])
def test_a_step_mixes_no_devices_and_never_waits_for_one(found: dict[str, str], device: str) -> None:
    wrong = {name: found[f"{name} {device}"] for name in VARIANTS if found[f"{name} {device}"] != "ok"}
    assert not wrong


@pytest.mark.parametrize("device", ["cuda", "gpu"])
@pytest.mark.parametrize("name", PROBES)
def test_probes_mix_no_devices_and_wait_for_none(found: dict[str, str], name: str, device: str) -> None:
    assert found[f"{name} {device}"] == "ok"


@pytest.mark.parametrize("device", ["cuda", "gpu"])
@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_a_step_must_not_do_is_seen(found: dict[str, str], name: str, device: str) -> None:
    assert found[f"{name} {device}"] != "ok"

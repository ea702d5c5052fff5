"""First weights: files of SLIP, MoCo v3, open_clip, timm and our own, made at random in their true forms."""

import argparse
import json
import sys
import zipfile
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from helpers.tiny_networks import SHAPE, tiny_settings
from safetensors.torch import save_file
from torch import Tensor, nn

from satmip_train.config import Settings
from satmip_train.models.backbones import create_backbone
from satmip_train.models.pretrained import start_backbone
from satmip_train.objectives import build_objective

HEADS = 12
SMALL = {"img_size": 16, "patch_size": 8, "embed_dim": 48, "depth": 1}


def settings_of(path: Path | str, heads: int = HEADS, **changes: Any) -> Settings:
    return tiny_settings(backbone_args={**SMALL, "num_heads": heads}, init=str(path), **changes)


@pytest.fixture
def donor() -> nn.Module:
    torch.manual_seed(9)
    return create_backbone(settings_of("random"))


def named(donor: nn.Module, prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in donor.state_dict().items()}


def save(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def assert_same(backbone: nn.Module, donor: nn.Module) -> None:
    torch.testing.assert_close(backbone.state_dict(), donor.state_dict(), rtol=0, atol=0)


def slip(path: Path, donor: nn.Module, model: str | None = "SLIP_VITS16", prefix: str = "module.visual.") -> Path:
    """SLIP's own form: DDP's prefix, a text tower, an SSL head, and the run's arguments as a Namespace."""
    other = {"module.logit_scale": torch.zeros(()), "module.image_mlp.layer1.weight": torch.zeros(3, 48)}
    content: dict[str, Any] = {"epoch": 99, "state_dict": {**named(donor, prefix), **other}}
    return save(path, content if model is None else {**content, "args": argparse.Namespace(model=model, lr=3e-3)})


@pytest.mark.parametrize(
    "name",
    ["pathlib.PosixPath", "pathlib.WindowsPath", "pathlib.PurePosixPath", "pathlib.PureWindowsPath", "pathlib._local.PosixPath"],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_slips_files_of_a_cluster_hold_paths_of_any_system(tmp_path: Path, donor: nn.Module, name: str, zipped: bool) -> None:
    """submitit's runs keep `output_dir` as a path, in the pickle of torch's archive or of the form before it."""
    module, _, kind = name.rpartition(".")
    path_class = type(kind, (), {"__module__": module, "__reduce__": lambda self: (type(self), ("/checkpoint", "slip"))})
    content = {"state_dict": named(donor, "module.visual."), "args": argparse.Namespace(output_dir=path_class())}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, module, SimpleNamespace(**{kind: path_class}))
        torch.save(content, tmp_path / "slip.pt", _use_new_zipfile_serialization=zipped)
    assert name.encode() in (tmp_path / "slip.pt").read_bytes().replace(b"\n", b".")
    assert_same(start_backbone(settings_of(tmp_path / "slip.pt"))[0], donor)


@pytest.mark.parametrize("model", ["SLIP_VITS16", "CLIP_VITB16", None])
def test_slips_files_give_their_image_tower_with_12_heads(tmp_path: Path, donor: nn.Module, model: str | None) -> None:
    path = slip(tmp_path / "slip.pt", donor, model)
    backbone, start = start_backbone(settings_of(path))
    assert_same(backbone, donor)
    assert start.startswith(f"{path} (sha256 ")
    assert start.endswith(f"): {len(donor.state_dict())} tensors")
    with pytest.raises(ValueError, match=r"slip.pt is of 12 .* has 6.*--backbone-args"):
        start_backbone(settings_of(path, heads=6))


def test_the_files_own_arguments_win_over_what_the_user_says(tmp_path: Path, donor: nn.Module) -> None:
    path = slip(tmp_path / "slip.pt", donor, "SLIP_VITL16")
    with pytest.raises(ValueError, match="of 16 attention heads, and the backbone has 12"):
        start_backbone(settings_of(path, init_heads=12))
    assert_same(start_backbone(settings_of(slip(path, donor, None), heads=6, init_heads=6))[0], donor)


def test_moco_v3s_files_lose_their_head(tmp_path: Path, donor: nn.Module) -> None:
    weights = {**named(donor, "module.base_encoder."), "module.base_encoder.head.0.weight": torch.zeros(2, 48)}
    path = save(tmp_path / "moco.pt", {"arch": "vit_small", "state_dict": weights})
    assert_same(start_backbone(settings_of(path))[0], donor)
    with pytest.raises(ValueError, match="of 12 attention heads, and the backbone has 8"):
        start_backbone(settings_of(path, heads=8))


@pytest.mark.parametrize(
    "prefix", ["", "module.", "visual.trunk.", "_orig_mod.", "module._orig_mod.backbone.", "module.encoder_q.", "teacher.backbone."]
)
def test_plain_weights_are_timms_and_have_timms_heads(tmp_path: Path, donor: nn.Module, prefix: str) -> None:
    path = tmp_path / "plain.safetensors"
    save_file(named(donor, prefix), path)
    assert_same(start_backbone(settings_of(path, heads=6))[0], donor)
    with pytest.raises(ValueError, match=r"of 6 attention heads, and the backbone has 12.*or --init-heads 12"):
        start_backbone(settings_of(path))
    assert_same(start_backbone(settings_of(path, init_heads=12))[0], donor)


def test_dinos_teacher_is_taken_with_timms_heads_and_numbers_of_numpy_are_read(tmp_path: Path, donor: nn.Module) -> None:
    other = {f"module.backbone.{name}": torch.zeros_like(value) for name, value in donor.state_dict().items()}
    teacher = {**named(donor, "module.backbone."), "module.head.mlp.0.weight": torch.zeros(2, 48)}
    best = {"acc": np.float64(0.5), "epoch": np.int64(3), "curve": np.zeros(2, np.float32)}
    content = {"student": other, "teacher": teacher, "args": argparse.Namespace(arch="vit_small"), **best}
    for zipped in (True, False):
        torch.save(content, tmp_path / "dino.pt", _use_new_zipfile_serialization=zipped)
        assert_same(start_backbone(settings_of(tmp_path / "dino.pt", heads=6))[0], donor)
    old = save(tmp_path / "old.pt", {"state_dict": named(donor, ""), "best": np.float32(0.5)})
    with zipfile.ZipFile(old) as archive:
        members = {
            name: archive.read(name).replace(b"numpy._core.multiarray", b"numpy.core.multiarray") for name in archive.namelist()
        }
    with zipfile.ZipFile(old, "w") as archive:  # as NumPy 1 named it
        for name, member in members.items():
            archive.writestr(name, member)
    assert_same(start_backbone(settings_of(old, heads=6))[0], donor)


def test_a_network_without_heads_takes_its_weights_without_their_classifier(tmp_path: Path) -> None:
    torch.manual_seed(9)
    donor = timm.create_model("test_resnet", num_classes=7)
    path = save(tmp_path / "resnet.pth", donor.state_dict())
    backbone, _ = start_backbone(tiny_settings(backbone="test_resnet", backbone_args={}, init=str(path)))
    for name, value in backbone.state_dict().items():
        torch.testing.assert_close(value, donor.state_dict()[name])


def test_our_own_checkpoint_run_and_export_are_taken(tmp_path: Path) -> None:
    torch.manual_seed(9)
    trained_with = settings_of("random")
    objective = build_objective(trained_with, SHAPE)
    dumped = trained_with.model_dump(mode="json")
    last = save(tmp_path / "last.pt", {"model": objective.state_dict(), "settings": dumped, "step": 3})
    exported = tmp_path / "exported" / "backbone.safetensors"
    exported.parent.mkdir()
    save_file(objective.backbone.state_dict(), exported)
    exported.with_suffix(".json").write_text(json.dumps({"settings": dumped}))
    for path in (last, tmp_path, exported, exported.parent):
        backbone, _ = start_backbone(settings_of(path))
        assert_same(backbone, objective.backbone)
        with pytest.raises(ValueError, match="of 12 attention heads, and the backbone has 6"):
            start_backbone(settings_of(path, heads=6))


def test_positions_are_resampled_to_the_size_of_the_views(tmp_path: Path, donor: nn.Module) -> None:
    path = slip(tmp_path / "slip.pt", donor)
    settings = tiny_settings(backbone_args={**SMALL, "num_heads": HEADS, "img_size": 32}, view_size=32, init=str(path))
    backbone, start = start_backbone(settings)
    assert start.endswith(", positions resampled from 5 to 17 tokens")
    there, here = donor.state_dict()["pos_embed"], backbone.state_dict()["pos_embed"]
    assert torch.equal(here[:, 0], there[:, 0])
    torch.testing.assert_close(here[:, 1:].mean(1), there[:, 1:].mean(1), rtol=0, atol=5e-3)
    assert torch.equal(backbone.state_dict()["blocks.0.attn.qkv.weight"], donor.state_dict()["blocks.0.attn.qkv.weight"])


def test_timms_published_weights_are_loaded_where_the_heads_are_timms(tmp_path: Path, donor: nn.Module) -> None:
    path = save(tmp_path / "timm.pth", {**donor.state_dict()})
    # timm reads this file where it would download; the number of classes is what keeps the classifier away.
    overlay = {"file": str(path), "num_classes": 0}
    arguments = {**SMALL, "num_heads": 6, "pretrained_cfg_overlay": overlay}
    backbone, start = start_backbone(tiny_settings(backbone_args=arguments, init="timm"))
    assert_same(backbone, donor)
    assert start == "timm's published weights of vit_small_patch16_224"
    with pytest.raises(ValueError, match="timm is of 6 attention heads, and the backbone has 12"):
        start_backbone(tiny_settings(backbone_args={**arguments, "num_heads": 12}, init="timm"))


def test_an_objective_starts_from_the_file_and_random_stays_random(tmp_path: Path, donor: nn.Module) -> None:
    path = slip(tmp_path / "slip.pt", donor)
    for name in ("simclr", "satmip", "satmips"):
        assert_same(build_objective(settings_of(path, objective=name), SHAPE).backbone, donor)
    torch.manual_seed(4)
    expected = create_backbone(settings_of("random"))
    torch.manual_seed(4)
    backbone, start = start_backbone(settings_of("random"))
    assert_same(backbone, expected)
    assert start == "random"


def test_what_is_no_weights_for_the_backbone_is_refused(tmp_path: Path, donor: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"nothing\.pt"):
        start_backbone(settings_of(tmp_path / "nothing.pt"))
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(ValueError, match=r"Cannot read weights from .*text\.pt"):
        start_backbone(settings_of(tmp_path / "text.pt"))
    with pytest.raises(ValueError, match=r"no tensors, but epoch"):
        start_backbone(settings_of(save(tmp_path / "empty.pt", {"epoch": 3})))
    with pytest.raises(ValueError, match=r"class list"):
        start_backbone(settings_of(save(tmp_path / "list.pt", [torch.zeros(2)])))
    deeper = settings_of(slip(tmp_path / "slip.pt", donor))
    deeper = deeper.model_copy(update={"backbone_args": {**deeper.backbone_args, "depth": 2}})
    with pytest.raises(ValueError, match=r"weights of vit_small_patch16_224: 12 tensors missing, such as blocks.1"):
        start_backbone(deeper)
    wider = deeper.model_copy(update={"backbone_args": {**SMALL, "num_heads": 12, "embed_dim": 96}})
    with pytest.raises(ValueError, match="of another shape, such as"):
        start_backbone(wider)


def test_positions_of_another_form_are_refused(tmp_path: Path, donor: nn.Module) -> None:
    """Without the axis of the batch, for which resampling has no answer but a traceback."""
    path = save(tmp_path / "flat.pt", {**named(donor, ""), "pos_embed": donor.state_dict()["pos_embed"][0]})
    with pytest.raises(ValueError, match=r"1 tensors? of another shape, such as pos_embed"):
        start_backbone(settings_of(path, init_heads=HEADS))


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "touched",)

    with pytest.raises(ValueError, match=r"an object of getattr,"):
        start_backbone(settings_of(save(tmp_path / "evil.pt", {"state_dict": {}, "args": Evil()})))
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_class_that_is_not_read_is_named(tmp_path: Path, zipped: bool) -> None:
    torch.save({"state_dict": {}, "args": Fraction(1, 3)}, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"an object of fractions\.Fraction,"):
        start_backbone(settings_of(tmp_path / "w.pt"))

"""Others' backbones: random files of the true names and shapes, at a small depth, become timm networks or are refused."""

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from click.testing import CliRunner
from helpers.toy_shards import write_toy_shards
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

from satmip_train.cli.evaluate import main
from satmip_train.errors import UsageError
from satmip_train.evaluation.models import load_model
from satmip_train.runs import external
from satmip_train.runs.export import load_backbone

SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 4}
DECODER = ["mask_token", "decoder_embed.weight", "decoder_pos_embed", "decoder_blocks.0.attn.qkv.weight", "decoder_norm.bias"]


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(math.prod(shape)))


def vit(prefix: str = "", width: int = 32, tokens: int = 1 + 14 * 14, patch: int = 16) -> dict[str, Tensor]:
    """The encoder of MAE, SLIP and timm: their names are the same."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width), "pos_embed": (1, tokens, width), "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,), "norm.weight": (width,), "norm.bias": (width,),
    }  # fmt: skip
    for i in range(2):
        shapes |= {f"blocks.{i}.{norm}.{part}": (width,) for norm in ("norm1", "norm2") for part in ("weight", "bias")}
        shapes |= {f"blocks.{i}.attn.qkv.weight": (3 * width, width), f"blocks.{i}.attn.qkv.bias": (3 * width,)}
        shapes |= {f"blocks.{i}.attn.proj.weight": (width, width), f"blocks.{i}.attn.proj.bias": (width,)}
        shapes |= {f"blocks.{i}.mlp.fc1.weight": (4 * width, width), f"blocks.{i}.mlp.fc1.bias": (4 * width,)}
        shapes |= {f"blocks.{i}.mlp.fc2.weight": (width, 4 * width), f"blocks.{i}.mlp.fc2.bias": (width,)}
    return {prefix + name: draw(*shape) for name, shape in shapes.items()}


def satmae() -> dict[str, Any]:
    return {"model": {**vit(), **{name: draw(3) for name in (*DECODER, "decoder_pred.weight")}}, "epoch": 199, "optimizer": {}}


def satmae_pp() -> dict[str, Any]:
    more = ["proj_up_conv.weight", "proj_up_norm.bias", "up_block.up_conv.weight", "up_block.res_block.conv1.bias"]
    return {"model": {**satmae()["model"], **{name: draw(3) for name in more}}}


def scale_mae() -> dict[str, Any]:
    more = ["mask_token_decoder", "fpn.fpn1.0.weight", "fcn_high.convs.0.weight", "fcn_low.convs.0.weight"]
    return {"model": {**vit(), **{name: draw(3) for name in (*DECODER, *more)}}, "args": argparse.Namespace(model="mae_vit_large")}


def slip() -> dict[str, Any]:
    text = ["positional_embedding", "text_projection", "image_projection", "image_mlp.layer1.weight", "logit_scale"]
    return {
        "state_dict": {**vit("module.visual."), **{f"module.{name}": draw(3) for name in text}},
        "args": argparse.Namespace(model="SLIP_VITS16"),
    }


def write(path: Path, content: dict[str, Any]) -> Path:
    torch.save(content, path)
    return path


def by_loops(tensors: dict[str, Tensor], image: Tensor, heads: int) -> Tensor:
    """The CLS token of a ViT, written out: pre-norm blocks, GELU, norms of eps 1e-6."""

    def norm(x: Tensor, name: str) -> Tensor:
        return nn.functional.layer_norm(x, x.shape[-1:], tensors[f"{name}.weight"], tensors[f"{name}.bias"], 1e-6)

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]

    weight, width = tensors["patch_embed.proj.weight"], len(tensors["patch_embed.proj.bias"])
    patches = [
        (weight * image[:, 16 * r : 16 * r + 16, 16 * c : 16 * c + 16]).sum((1, 2, 3)) + tensors["patch_embed.proj.bias"]
        for r in range(image.shape[1] // 16)
        for c in range(image.shape[2] // 16)
    ]
    x = torch.stack([tensors["cls_token"][0, 0], *patches]) + tensors["pos_embed"][0]
    for i in range(2):
        q, k, v = linear(norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv").chunk(3, dim=1)
        size = width // heads
        parts = []
        for h in range(heads):
            cut = slice(h * size, (h + 1) * size)
            parts.append((q[:, cut] @ k[:, cut].T / size**0.5).softmax(1) @ v[:, cut])
        x = x + linear(torch.cat(parts, 1), f"blocks.{i}.attn.proj")
        x = x + linear(nn.functional.gelu(linear(norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1")), f"blocks.{i}.mlp.fc2")
    return norm(x, "norm")[0]


@pytest.mark.parametrize(
    ("name", "make", "heads"),
    [("satmae", satmae, 4), ("satmae++", satmae_pp, 4), ("slip-s", slip, 4)],
)
def test_a_file_of_true_names_gives_the_network_that_wrote_it(
    tmp_path: Path, name: str, make: Callable[[], dict[str, Any]], heads: int
) -> None:
    content = make()
    content.pop("args", None)
    module, config = external.load(name, write(tmp_path / "w.pth", content), arguments=SMALL)
    image = draw(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.allclose(module(image)[0], by_loops(vit(), image[0], heads), atol=2e-4)
    assert not module.training
    assert (config["features"], config["view_size"]) == (32, 224)
    assert config["settings"]["objective"] == name


def test_what_belongs_to_no_backbone_is_dropped_by_name(tmp_path: Path) -> None:
    _, config = external.load("satmae++", write(tmp_path / "w.pth", satmae_pp()), arguments=SMALL)
    assert config["external"]["dropped"] == sorted(satmae_pp()["model"].keys() - vit().keys())
    assert len(config["external"]["dropped"]) == 10


def test_scale_mae_has_its_published_positions(tmp_path: Path) -> None:
    module, config = external.load("scale-mae", write(tmp_path / "w.pth", scale_mae()), arguments=SMALL)
    assert config["view_size"] == 128
    found = module.state_dict()["pos_embed"][0]
    assert found.shape == (1 + 8 * 8, 32)
    assert not found[0].any()
    for row in range(8):
        for column in range(8):
            for half, place in ((0, column), (16, row)):
                for i in range(8):
                    angle = 224 / 128 * place / 10000 ** (i / 8)
                    assert found[1 + row * 8 + column, half + i] == pytest.approx(math.sin(angle), abs=1e-5)
                    assert found[1 + row * 8 + column, half + 8 + i] == pytest.approx(math.cos(angle), abs=1e-5)


def test_at_the_reference_ratio_the_positions_are_maes() -> None:
    assert external.gsd_ratio(224) == 1.0
    one, two = external.scaled_positions(4, 16, 1.0)[0], external.scaled_positions(4, 16, 2.0)[0]
    # Twice the GSD: every other place.
    assert torch.allclose(two[1 + 1], one[1 + 2], atol=1e-6)


def test_learned_positions_are_resampled_to_another_size(tmp_path: Path) -> None:
    module, config = external.load("satmae", write(tmp_path / "w.pth", satmae()), size=96, arguments=SMALL)
    expected = resample_abs_pos_embed(vit()["pos_embed"], new_size=[6, 6], num_prefix_tokens=1)
    assert torch.equal(module.state_dict()["pos_embed"], expected)
    assert config["view_size"] == 96
    assert module(draw(2, 3, 96, 96)).shape == (2, 32)


def test_a_scaled_model_at_another_size_has_the_ratio_of_that_size(tmp_path: Path) -> None:
    module, _ = external.load("scale-mae", write(tmp_path / "w.pth", scale_mae()), size=224, arguments=SMALL)
    assert torch.equal(module.state_dict()["pos_embed"], external.scaled_positions(14, 32, 1.0))


def missing_block(content: dict[str, Any]) -> None:
    del content["model"]["blocks.1.mlp.fc2.bias"]


def unknown_name(content: dict[str, Any]) -> None:
    content["model"]["fc_norm.weight"] = draw(32)


def wrong_width(content: dict[str, Any]) -> None:
    content["model"]["norm.weight"] = draw(31)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (missing_block, "1 missing: blocks.1.mlp.fc2.bias"),
        (unknown_name, "1 unexpected: fc_norm.weight"),
        (wrong_width, "1 of another shape: norm.weight"),
    ],
)
def test_anything_else_than_the_backbone_is_refused(tmp_path: Path, spoil: Callable[[dict[str, Any]], None], message: str) -> None:
    content = satmae()
    spoil(content)
    with pytest.raises(UsageError, match=f"backbone of satmae: .*{message}"):
        external.load("satmae", write(tmp_path / "w.pth", content), arguments=SMALL)


def test_heads_that_the_file_tells_must_be_those_of_the_network(tmp_path: Path) -> None:
    path = write(tmp_path / "w.pth", slip())
    with pytest.raises(UsageError, match="12 attention heads, and slip-s has 4"):
        external.load("slip-s", path, arguments=SMALL)


def test_the_true_architectures_are_those_of_the_papers() -> None:
    for name, heads, width, depth in (("satmae", 16, 1024, 24), ("slip-s", 12, 384, 12)):
        known = external.find(name)
        with torch.device("meta"):
            module: Any = timm.create_model(known.backbone, num_classes=0, **known.args)
        assert (module.blocks[0].attn.num_heads, module.embed_dim, len(module.blocks)) == (heads, width, depth)


def test_any_timm_model_is_read_by_its_name(tmp_path: Path) -> None:
    saved = timm.create_model("test_resnet", num_classes=7)
    path = write(tmp_path / "w.pth", saved.state_dict())
    module, config = external.load("timm:test_resnet", path)
    image = draw(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(module(image), saved.eval().forward_head(saved.forward_features(image), pre_logits=True))
    assert config["external"]["dropped"] == ["fc.bias", "fc.weight"]
    assert config["args"] == {}


def test_an_open_clip_tower_is_read_by_the_model_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import open_clip

    vision = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16, "head_width": 16}
    text = {"context_length": 8, "vocab_size": 99, "width": 16, "heads": 2, "layers": 1}
    config = {"embed_dim": 16, "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: config)
    saved = open_clip.CLIP(16, vision, text, quick_gelu=True).eval()
    module, described = external.load("open_clip:toy", write(tmp_path / "w.pt", saved.state_dict()))
    image = draw(2, 3, 32, 32)
    saved.visual.proj = None
    with torch.no_grad():
        assert torch.allclose(module(image), saved.visual(image), atol=1e-5)
    assert described["external"]["dropped"] == ["head.bias", "head.weight"]


@pytest.mark.parametrize("name", ["dino", "timm:", "open_clip:nothing-like-it"])
def test_an_unknown_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="--external"):
        external.load(name, write(tmp_path / "w.pth", satmae()))


def test_a_file_that_holds_no_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"nothing")
    with pytest.raises(UsageError, match=r"^--weights: Cannot read .*w\.pth"):
        external.load("satmae", tmp_path / "w.pth", arguments=SMALL)


def test_an_installed_backbone_is_evaluated_like_a_run(tmp_path: Path) -> None:
    path = write(tmp_path / "w.pth", timm.create_model("test_resnet", num_classes=0).state_dict())
    shards = write_toy_shards(tmp_path / "shards", {"train": 12, "val": 4})
    arguments = ["knn", "--external", "timm:test_resnet", "--weights", path, "--external-size", 32, "--shards", shards, "--k", "1"]
    arguments += ["--random-seeds", "", "--workers", 0, "--device", "cpu", "--out", tmp_path / "eval"]
    for _ in range(2):
        got = CliRunner().invoke(main, [str(word) for word in arguments], catch_exceptions=False)
        assert got.exit_code == 0, got.output
    (model,) = json.loads((tmp_path / "eval" / "knn.json").read_text())["models"]
    assert (model["kind"], model["objective"]) == ("run", "timm:test_resnet")
    folder = Path(model["run"])
    assert load_model(folder).settings.view_size == 32
    assert load_backbone(folder)[1]["external"]["weights"] == "w.pth"


def test_two_files_of_one_network_are_two_backbones(tmp_path: Path) -> None:
    """Once both were given one folder, and the second file's network was evaluated twice."""
    files = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        files.append(write(tmp_path / f"{seed}.pth", timm.create_model("test_resnet", num_classes=0).state_dict()))
    shards = write_toy_shards(tmp_path / "shards", {"train": 12, "val": 4})
    arguments = ["knn", *(word for path in files for word in ("--external", "timm:test_resnet", "--weights", path))]
    arguments += ["--external-size", 32, "--shards", shards, "--random-seeds", "", "--workers", 0, "--device", "cpu"]
    got = CliRunner().invoke(main, [str(word) for word in (*arguments, "--out", tmp_path / "eval")], catch_exceptions=False)
    assert got.exit_code == 0, got.output
    result = json.loads((tmp_path / "eval" / "knn.json").read_text())
    one, two = result["models"]
    assert one["fingerprint"] != two["fingerprint"]
    assert one["run"] != two["run"]
    assert [load_backbone(model["run"])[1]["external"]["weights"] for model in (one, two)] == ["0.pth", "1.pth"]
    assert result["summaries"] == []  # they do not differ in their seed


def test_a_damaged_conversion_is_made_again(tmp_path: Path) -> None:
    path = write(tmp_path / "w.pth", timm.create_model("test_resnet", num_classes=0).state_dict())
    folder = external.install("timm:test_resnet", path, tmp_path / "external", 32)
    (folder / "backbone.json").write_text("{")
    assert external.install("timm:test_resnet", path, tmp_path / "external", 32) == folder
    assert load_model(folder).settings.view_size == 32


def test_each_name_needs_its_file(tmp_path: Path) -> None:
    shards = write_toy_shards(tmp_path / "shards", {"train": 12, "val": 4})
    got = CliRunner().invoke(main, ["knn", "--external", "satmae", "--shards", str(shards), "--device", "cpu"])
    assert got.exit_code == 1
    assert "--weights" in got.output

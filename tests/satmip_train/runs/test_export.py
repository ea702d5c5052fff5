"""The exported backbone is what timm loads."""

import json
import random
from contextlib import suppress

import numpy as np
import open_clip
import pytest
import timm
import torch
from helpers.toy_shards import write_toy_shards
from helpers.training_runs import TINY
from PIL import Image
from rich.console import Console
from safetensors import safe_open

from satmip_train.config import Settings
from satmip_train.data.dataset import open_dataset
from satmip_train.distributed import Job
from satmip_train.errors import UsageError
from satmip_train.runs import checkpoint
from satmip_train.runs.export import export_backbone, export_run, load_backbone, load_metadata_encoder, load_projections
from satmip_train.runs.open_clip import to_open_clip
from satmip_train.training.plan import plan_run
from satmip_train.training.state import build_state, save
from satmip_train.training.train import train

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
        # timm computes all tokens of the last block, of which ours computes one.
        torch.testing.assert_close(model(views), expected)
        loaded, _ = load_backbone(tmp_path)
        assert torch.equal(loaded(views), expected)
    assert not loaded.training
    assert expected.shape == (3, config["features"])


OPEN_CLIP = {
    "vit": {},
    "vit of another shape": {
        "backbone_args": {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_ratio": 3},
        "objective": "satmip", "metadata_loss": "siglip", "embed_dim": 12,
    },
    "resnet": {"backbone": "resnet10t", "backbone_args": {}, "view_size": 32},
    "read at the end": {"text_pool": "end"},
    "padding attended to": {"text_pool": "end", "text_attend_padding": True},
}  # fmt: skip


@pytest.mark.parametrize("name", OPEN_CLIP)
def test_open_clip_loads_both_encoders_and_gives_equal_embeddings(toy, tmp_path, name):
    plan = plan_run(Settings(**{**TINY, **OPEN_CLIP[name]}), toy, Job(torch.device("cpu")))
    state = build_state(plan)
    save(plan, state, tmp_path)
    assert {"open_clip_model.safetensors", "open_clip_config.json"} <= {p.name for p in export_run(tmp_path, open_clip=True)}
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path}")
    masked = not plan.settings.text_attend_padding
    if masked:
        model.text.use_pad_mask = True
    model.eval()
    objective = state.objective.eval()
    reader = plan.decoder.captions
    texts = ["gsd: [0.5, 0.5], timestamp: 2015-01-08T02:13:00Z", "gsd: [1.4, 1.4]"]
    tokens = torch.from_numpy(np.stack([reader.tokens(text) for text in texts]))
    tokenize = open_clip.get_tokenizer(f"local-dir:{tmp_path}")
    assert torch.equal(tokenize(texts), tokens)
    views = torch.randn(3, 3, plan.settings.view_size, plan.settings.view_size)
    with torch.no_grad():
        torch.testing.assert_close(model.encode_image(views), objective.matching.image_projection(objective.backbone(views)))
        expected = objective.matching.metadata_projection(objective.metadata_encoder({"tokens": tokens}))
        torch.testing.assert_close(model.encode_text(tokens), expected)
        assert torch.equal(model.logit_scale, objective.matching.logit_scale)
        if objective.matching.logit_bias is not None:
            assert torch.equal(model.logit_bias, objective.matching.logit_bias)
    chip = Image.fromarray(np.arange(24 * 24 * 3, dtype=np.uint8).reshape(24, 24, 3))
    assert preprocess(chip).shape == views.shape[1:]
    assert (model.visual.preprocess_cfg["mean"], model.visual.preprocess_cfg["std"]) == (list(toy.mean), list(toy.std))
    if name == "resnet":
        made = json.loads((tmp_path / "open_clip_config.json").read_text())["model_cfg"]["vision_cfg"]
        assert (made["timm_pool"], made["timm_model_pretrained"]) == ("", False)
    # As `features.resize` does.
    assert [model.visual.preprocess_cfg[name] for name in ("interpolation", "resize_mode")] == ["bilinear", "squash"]
    card = (tmp_path / "README.md").read_text()
    assert 'tokenize = open_clip.get_tokenizer("local-dir:.")\n' + ("model.text.use_pad_mask" if masked else "```\n") in card


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "simclr"}, "has no encoder of captions"),
        ({"metadata_encoder": "tabular"}, "has no encoder of captions"),
        ({"backbone_args": {**TINY["backbone_args"], "init_values": 1e-5}}, "has parts that open_clip's own"),
        ({"backbone_args": {**TINY["backbone_args"], "pos_embed": "none"}}, "has parts that open_clip's own"),
        ({"backbone_args": {**TINY["backbone_args"], "no_embed_class": True}}, "has parts that open_clip's own"),
        ({"backbone_args": {**TINY["backbone_args"], "act_layer": "silu"}}, "has parts that open_clip's own"),
        (
            {"backbone_args": {**TINY["backbone_args"], "global_pool": "avg", "fc_norm": False}},
            "has parts that open_clip's own",
        ),
        ({"projection_bias": True}, "open_clip's projections have no bias"),
        ({"backbone": "resnet10t", "backbone_args": {"drop_rate": 0.1}, "view_size": 32}, "gave resnet10t the arguments"),
    ],
)
def test_what_is_no_model_of_open_clip_is_refused_with_advice(toy, tmp_path, changes, message):
    plan = plan_run(Settings(**{**TINY, **changes}), toy, Job(torch.device("cpu")))
    save(plan, build_state(plan), tmp_path)
    with pytest.raises(UsageError, match=rf"{message}.*without --open-clip"):
        export_run(tmp_path, open_clip=True)


def test_captions_of_a_pretrained_encoder_are_not_those_of_open_clip():
    settings = Settings(**{**TINY, "metadata_encoder": "pretrained", "text_model": "bert"})
    with pytest.raises(UsageError, match="metadata encoder pretrained"):
        to_open_clip(settings, 9, torch.nn.Identity(), {"matching.logit_scale": torch.zeros(())}, {})


def test_the_config_says_what_an_evaluation_needs(toy, tmp_path):
    settings = Settings(**{**TINY, "objective": "satmip", "max_steps": 1})
    train(settings, toy, tmp_path, Job(torch.device("cpu")), Console(quiet=True))
    _, config = load_backbone(tmp_path / "backbone.safetensors")
    assert (config["model"], config["view_size"], config["step"]) == ("vit_small_patch16_224", 16, 1)
    assert (config["args"]["num_heads"], config["args"]["global_pool"]) == (2, "token")
    with safe_open(tmp_path / "backbone.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}  # which readers of Hugging Face's ask for
    assert config["mean"] == list(toy.mean)
    learned_from = {"root": toy.root, "source": "toy", "licence": "CC0-1.0", "fingerprint": toy.fingerprint}
    assert config["dataset"] == learned_from
    assert Settings(**config["settings"]) == settings
    assert config["versions"] == checkpoint.versions()


@pytest.mark.parametrize("name", ["backbone.safetensors", "backbone.json", "metadata.safetensors", "metadata.json"])
@pytest.mark.parametrize("part", [0.0, 0.6])
def test_a_damaged_export_is_refused_with_advice(toy, tmp_path, name, part):
    plan = plan_run(Settings(**TINY), toy, Job(torch.device("cpu")))
    save(plan, build_state(plan), tmp_path)
    export_run(tmp_path)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(part * len(whole))])
    load = load_backbone if name.startswith("backbone") else load_metadata_encoder
    with pytest.raises(UsageError, match=rf"{name} .*Copy it again, or run: satmip-train export {tmp_path}"):
        load(tmp_path)


def test_a_flipped_byte_is_found_in_checkpoints_and_exports(toy, tmp_path):
    """593 of 600 such checkpoints once gave other weights in silence, and each of 150 such exports."""
    plan = plan_run(Settings(**TINY), toy, Job(torch.device("cpu")))
    save(plan, build_state(plan), tmp_path)
    export_run(tmp_path)
    names = ("last.pt", "backbone.safetensors", "metadata.safetensors", "projections.safetensors")
    whole = {name: (tmp_path / name).read_bytes() for name in names}
    model, draw = checkpoint.load(tmp_path)["model"], random.Random(0)
    loads = dict(zip(names, (checkpoint.load, load_backbone, load_metadata_encoder, load_projections), strict=True))
    for name, load in loads.items():
        for place in draw.sample(range(len(whole[name])), 12):
            damaged = bytearray(whole[name])
            damaged[place] ^= 1 << draw.randrange(8)
            (tmp_path / name).write_bytes(damaged)
            if name != "last.pt":
                with pytest.raises(UsageError, match=rf"{name} is damaged"):
                    load(tmp_path)
                continue
            with suppress(UsageError):  # where the byte is none of a part's, the weights are
                found = load(tmp_path)["model"]
                assert all(torch.equal(found[key], value) for key, value in model.items())
        (tmp_path / name).write_bytes(whole[name])


@pytest.mark.parametrize("content", ["[]", "{}", '{"settings": {}}'])
def test_json_that_describes_no_export_is_refused_with_advice(tmp_path, content):
    for name in ("backbone.safetensors", "backbone.json"):
        (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=r"backbone\.json describes no export: .*Copy it again, or run"):
        load_backbone(tmp_path)


@pytest.mark.parametrize("name", ["backbone", "metadata", "projections"])
def test_every_byte_of_what_describes_an_export_is_covered_by_its_hash(toy, tmp_path, name):
    """A changed digit of the mean once gave other features in silence."""
    plan = plan_run(Settings(**TINY), toy, Job(torch.device("cpu")))
    save(plan, build_state(plan), tmp_path)
    export_run(tmp_path)
    path = tmp_path / f"{name}.json"
    whole = path.read_bytes()
    load = {"backbone": load_backbone, "metadata": load_metadata_encoder, "projections": load_projections}[name]
    load(tmp_path)
    for place in random.Random(0).sample(range(len(whole)), 100):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        if b"own_sha256" in path.read_bytes():  # without its name it passes for an export of an earlier version
            with pytest.raises(UsageError, match=rf"{name}\.json describes no export.*satmip-train export"):
                load(tmp_path)


def test_weights_of_another_network_are_refused_with_advice(toy, tmp_path):
    plan = plan_run(Settings(**TINY), toy, Job(torch.device("cpu")))
    save(plan, build_state(plan), tmp_path)
    export_run(tmp_path)
    (tmp_path / "backbone.safetensors").write_bytes((tmp_path / "metadata.safetensors").read_bytes())
    described = json.loads((tmp_path / "backbone.json").read_text())
    del described["sha256"], described["own_sha256"]  # as earlier versions wrote it
    (tmp_path / "backbone.json").write_text(json.dumps(described))
    with pytest.raises(UsageError, match=r"(?s)weights that backbone\.json describes: .*satmip-train export"):
        load_backbone(tmp_path)


def test_a_file_of_no_backbone_and_a_network_that_timm_does_not_know_are_refused_with_advice(toy, tmp_path):
    plan = plan_run(Settings(**TINY), toy, Job(torch.device("cpu")))
    save(plan, build_state(plan), tmp_path)
    export_run(tmp_path)
    with pytest.raises(UsageError, match=r"metadata\.safetensors is no backbone"):
        load_backbone(tmp_path / "metadata.safetensors")
    config = json.loads((tmp_path / "backbone.json").read_text())
    del config["own_sha256"]
    for changes in ({"model": "vit_of_tomorrow"}, {"args": {**config["args"], "no_argument": 1}}):
        (tmp_path / "backbone.json").write_text(json.dumps({**config, **changes}))
        with pytest.raises(UsageError, match=rf"timm cannot make .*Use the timm .*\({timm.__version__}\)"):
            load_backbone(tmp_path)


def test_an_export_stands_alone_without_its_checkpoint(toy, tmp_path):
    plan = plan_run(Settings(**TINY), toy, Job(torch.device("cpu")))
    save(plan, build_state(plan), tmp_path)
    export_run(tmp_path)
    (tmp_path / "last.pt").unlink()
    assert load_backbone(tmp_path)[1]["step"] == 0


def test_a_run_without_a_checkpoint_or_an_export_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"no checkpoint last.pt .*Train first"):
        export_backbone(tmp_path)
    with pytest.raises(UsageError, match="Run: satmip-train export"):
        load_backbone(tmp_path)
    (tmp_path / "backbone.safetensors").touch()
    with pytest.raises(UsageError, match=r"no backbone\.json.*Run: satmip-train export"):
        load_backbone(tmp_path)

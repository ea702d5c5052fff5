"""The objectives: their names, their contract, their terms, and that they learn."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tiny_networks import SHAPE, SIDE, tiny_batch, tiny_settings

from satmip_train.config import Settings
from satmip_train.data.places import Places
from satmip_train.objective_names import terms_of
from satmip_train.objectives import OBJECTIVES, TERMS, applies, build_objective, check_objective
from satmip_train.objectives.base import MetadataShape, Objective
from satmip_train.objectives.losses import metadata_image_loss, same_place, view_loss
from satmip_train.training.optim import build_optimizer

VARIANTS: list[dict[str, Any]] = [
    {"objective": "simclr"},
    {"objective": "simclr", "negatives": "cross"},
    {"objective": "satmip"},
    {"objective": "satmip", "metadata_encoder": "tabular"},
    {"objective": "satmip", "metadata_loss": "siglip"},
    {"objective": "satmips"},
    {"objective": "satmips", "coupled": False, "metadata_encoder": "tabular", "simclr_weight": 0.5},
    {"objective": "satmip+simclr+tp", "metadata_weight": 0.5},
]
PARTS = {
    "simclr": {"loss_views"},
    "satmip": {"loss_metadata", "temperature"},
    "satmips": {"loss_metadata", "loss_views", "temperature"},
    "satmip+simclr+tp": {"loss_metadata", "loss_views", "temperature"},
}
SUMS = ("satmip+geo", "satmip+moco", "satmip+simclr+geo+tp", "satmip+simclr+moco+geo")
PLACES = Places(np.array([0, 8]), np.array([0, 0, 1, 2, 3, 3, 3, 4]), np.random.default_rng(0).uniform(-80, 80, (8, 2)))
each_variant = pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(map(str, v.values())))


def build(variant: dict[str, Any], shape: MetadataShape = SHAPE) -> tuple[Objective, Settings]:
    torch.manual_seed(0)
    settings = tiny_settings(**variant)
    return build_objective(settings, shape), settings


def batch_of(objective: Objective, seed: int = 0) -> dict[str, Any]:
    located = {"place": torch.tensor(PLACES.place), "location": torch.tensor(PLACES.location, dtype=torch.float32)}
    return {**tiny_batch(objective, seed=seed), **located}


# Names


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("satmip+simclr", "satmips"),
        ("simclr + satmip", "satmips"),
        ("tp+geo+moco", "moco-geo-tp"),
        ("simclr-geo+tp", "simclr-geo-tp"),
        ("tp+satmips", "satmip+simclr+tp"),
        ("geo+simclr-tp+satmip", "satmip+simclr+geo+tp"),
        ("zeta+alpha+moco", "moco+alpha+zeta"),
        ("satmae++", "satmae++"),
        *((name, name) for name in OBJECTIVES),
    ],
)
def test_an_objective_has_one_name_whatever_the_order_of_its_terms(typed: str, kept: str) -> None:
    assert tiny_settings(objective=typed).objective == kept
    assert tiny_settings(objective=kept) == tiny_settings(objective=typed)


def test_a_name_says_what_its_terms_are() -> None:
    said = {
        name: (terms_of(name).learns_from_metadata, terms_of(name).compares_views) for name in (*OBJECTIVES, *SUMS, "geo", "byol")
    }
    for name, found in said.items():
        kinds = [TERMS[term] for term in terms_of(name).terms if term in TERMS]
        assert found == (any(kind.learns_from_metadata for kind in kinds), any(kind.views == 2 for kind in kinds))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("byol", '"byol"'),
        ("simcrl", 'Did you mean "simclr"'),
        ("satmip+goe", 'Did you mean "geo"'),
        ("satmip+", '"satmip+"'),
        ("satmip+tp", "Add simclr or moco"),
        ("geo+tp", "Add simclr or moco"),
        ("tp", "Add simclr or moco"),
    ],
)
def test_what_is_no_objective_is_refused(name: str, words: str) -> None:
    for refuse in (lambda: check_objective(name), lambda: build_objective(tiny_settings(objective=name), SHAPE)):
        with pytest.raises(ValueError, match=words.replace("+", r"\+")):
            refuse()


def test_a_term_stands_once_in_a_sum() -> None:
    with pytest.raises(ValueError, match='"simclr" twice'):
        tiny_settings(objective="satmips+simclr")


@pytest.mark.parametrize("encoder", ["text", "tabular"])
@pytest.mark.parametrize("name", [*OBJECTIVES, *SUMS])
def test_what_an_objective_says_that_it_reads_is_what_it_reads(name: str, encoder: str) -> None:
    read: set[str] = set()

    class Watched(Settings):
        def __getattribute__(self, name: str) -> Any:
            read.add(name)
            return super().__getattribute__(name)

    settings = Watched(**tiny_settings(objective=name, metadata_encoder=encoder, geo_clusters=2, queue_length=8).model_dump())
    read.clear()
    objective = build_objective(settings, SHAPE)
    objective.fit(lambda: PLACES)
    objective(batch_of(objective))
    objective.after_step()
    objective.chance()
    read |= {"fields", "metadata_mask", "shuffle_metadata"} if terms_of(name).learns_from_metadata else set()  # by the stream
    of_some = {name for objective in OBJECTIVES.values() for name in getattr(objective, "reads", ())}
    assert {"moco_weight", "simclr_weight", "metadata_weight", "geo_weight", "coupled"} <= of_some
    assert read & of_some == {name for name in of_some if applies(name, settings)}
    assert all(applies(name, settings) for name in Settings.model_fields.keys() - of_some)


def test_settings_of_an_objective_of_ones_own_all_apply(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(Objective):
        """Does not say what it reads."""

    monkeypatch.setitem(OBJECTIVES, "mine", Mine)
    assert applies("queue_length", tiny_settings(objective="mine"))
    assert applies("queue_length", tiny_settings(objective="moco"))
    assert not applies("queue_length", tiny_settings(objective="simclr"))


# Numbers

DROP = {
    "backbone_args": {
        **{"img_size": SIDE, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4},
        **{"drop_path_rate": 0.5, "pos_drop_rate": 0.2},
    }
}
DECOUPLED = {"coupled": False, "metadata_encoder": "tabular", "simclr_weight": 0.5}
BEFORE: dict[str, tuple[list[float], dict[str, Any]]] = {
    "simclr cross masked": ([3.71258, 3.28391, 3.72056, 2.86956], {"negatives": "cross", "mask_same_place": True}),
    "simclr resnet": ([2.47505, 3.69396, 3.39458, 2.99746], {"backbone": "test_resnet", "backbone_args": {}, "view_size": 16}),
    "simclr-geo": ([4.75025, 3.97801, 5.25376, 3.91057], {"geo_weight": 0.5}),
    "simclr-geo features": ([5.20872, 4.25583, 5.81941, 4.54164], {"geo_input": "features"}),
    "simclr-tp": ([4.18687, 3.25008, 4.94543, 3.44076], {}),
    "simclr-geo-tp": ([5.30341, 4.36274, 5.98263, 4.26794], {"geo_space": "sphere"}),
    "moco": ([0.0, 2.35406, 0.324299, 1.73498], {**DROP}),
    "moco-geo": ([0.571578, 2.54188, 0.743244, 2.74826], {"geo_weight": 0.5, "optimizer": "sgd"}),
    "moco-tp masked": ([0.0, 1.93418, 0.0838722, 1.55185], {"mask_same_place": True}),
    "moco-geo-tp": ([1.22127, 1.79214, 1.56902, 1.34714], {"geo_input": "features"}),
    "satmip tabular": ([2.54529, 4.30305, 2.69096, 2.42174], {"metadata_encoder": "tabular", "tabular_ffn_dropout": 0.3, **DROP}),
    "satmip siglip": ([12.1942, 7.21621, 2.88336, 4.81784], {"metadata_loss": "siglip", "mask_same_place": True}),
    "satmips": ([6.64198, 6.90226, 5.91645, 4.97289], {"mask_same_place": True}),
    "satmips decoupled": (
        [5.1944, 5.26542, 4.57916, 3.93735],
        {**DECOUPLED, "tabular_attention_dropout": 0.3, **DROP},
    ),
    "satmips cross": ([9.60296, 12.3225, 8.65245, 8.16051], {"negatives": "cross", "simclr_weight": 2.0, "projection_bias": True}),
}
"""Losses of four steps, as they were before objectives were sums of terms."""


@pytest.mark.parametrize("name", BEFORE)
def test_objectives_with_a_name_of_their_own_give_the_numbers_of_before(name: str) -> None:
    expected, changes = BEFORE[name]
    objective, settings = build(
        {"objective": name.split()[0], "geo_clusters": 3, "queue_length": 20, "key_momentum": 0.7, **changes}
    )
    objective.fit(lambda: PLACES)
    optimizer = build_optimizer(objective, settings)
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    found = []
    for step in range(4):
        torch.manual_seed(100 + step)
        optimizer.zero_grad()
        parts = objective(batch_of(objective, step))
        parts["loss"].backward()
        optimizer.step()
        objective.after_step()
        found.append(parts["loss"].item())
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("coupled", [True, False])
def test_a_sum_of_all_terms_weighs_each_and_gives_each_its_view(coupled: bool) -> None:
    weights = {"metadata_weight": 0.5, "simclr_weight": 2.0, "moco_weight": 3.0, "geo_weight": 0.25}
    small = {"geo_clusters": 2, "queue_length": 8, "temperature": 0.3}
    objective, _ = build({"objective": "geo+moco+tp+simclr+satmip", "coupled": coupled, **weights, **small})
    objective.fit(lambda: PLACES)
    assert objective.view_sources == (("image", "partner") if coupled else ("image", "image", "partner"))
    assert objective.batch_keys == {"tokens", "location"}
    for seed in (1, 2):  # the second has the keys of the first
        batch = batch_of(objective, seed)
        metadata, one, two = (objective.backbone(view) for view in (batch["views"][0], *batch["views"][-2:]))
        a, b = objective.simclr.head(one), objective.simclr.head(two)
        image = objective.matching.image_projection(metadata)
        text = objective.matching.metadata_projection(objective.metadata_encoder(batch))
        logits = objective.geo.head[1](a.relu())
        expected = {
            "loss_metadata": metadata_image_loss(image, text, 1 / 0.07),
            "loss_views": view_loss(a, b, 0.3),
            "loss_geo": torch.nn.functional.cross_entropy(logits, objective.geo.labels(batch["location"])),
        }
        parts = objective(batch)
        objective.after_step()
        for name, value in expected.items():
            torch.testing.assert_close(parts[name], value.detach(), rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
        assert set(parts) == {"loss", "loss_moco", "temperature", *expected}
        shares = zip(weights.values(), ("loss_metadata", "loss_views", "loss_moco", "loss_geo"), strict=True)
        assert parts["loss"].item() == pytest.approx(sum(weight * parts[part].item() for weight, part in shares), rel=1e-5)
    assert parts["loss_moco"] > 0
    assert objective.chance()["loss"] == pytest.approx(
        0.5 * math.log(8) + 2 * math.log(15) + 3 * math.log(9) + 0.25 * math.log(2), rel=1e-6
    )


def test_the_order_of_terms_changes_no_number() -> None:
    found = []
    for terms in itertools.permutations(("satmip", "simclr", "tp")):
        objective, _ = build({"objective": "+".join(terms)})
        found.append((objective(tiny_batch(objective))["loss"].item(), list(objective.state_dict())))
    assert all(one == found[0] for one in found)


def test_weights_of_sums_do_not_weigh_a_term_that_stands_alone() -> None:
    heavy, _ = build({"objective": "simclr", "simclr_weight": 3.0})
    plain, _ = build({"objective": "simclr"})
    assert heavy(tiny_batch(heavy))["loss"] == plain(tiny_batch(plain))["loss"]


def test_geo_without_a_projection_reads_features() -> None:
    objective, _ = build({"objective": "satmip+geo", "geo_clusters": 2, "geo_input": "projection"})
    objective.fit(lambda: PLACES)
    batch = batch_of(objective)
    logits = objective.geo.head[1](objective.backbone(batch["views"][0]))
    expected = torch.nn.functional.cross_entropy(logits, objective.geo.labels(batch["location"]))
    torch.testing.assert_close(objective(batch)["loss_geo"], expected.detach())
    assert objective.views == 1


# Contract


@each_variant
def test_losses_are_float32_scalars_and_every_parameter_learns(variant: dict[str, Any]) -> None:
    objective, settings = build(variant)
    parts = objective(tiny_batch(objective))
    assert set(parts) == {"loss"} | PARTS[settings.objective]
    assert all(part.shape == () and part.dtype == torch.float32 and part.isfinite() for part in parts.values())
    assert [name for name, part in parts.items() if part.requires_grad] == ["loss"]
    parts["loss"].backward()
    assert [name for name, parameter in objective.named_parameters() if parameter.grad is None] == []


@each_variant
def test_an_objective_needs_just_the_keys_it_names(variant: dict[str, Any]) -> None:
    objective, _ = build(variant)
    batch = tiny_batch(objective)
    expected = objective(batch)["loss"]
    needed = {key: value for key, value in batch.items() if key == "views" or key in objective.batch_keys}
    torch.testing.assert_close(objective(needed)["loss"], expected)
    for key in objective.batch_keys:
        with pytest.raises(KeyError, match=key):
            objective({name: value for name, value in needed.items() if name != key})


@each_variant
def test_more_or_fewer_views_are_refused(variant: dict[str, Any]) -> None:
    objective, _ = build(variant)
    batch = tiny_batch(objective)
    views = batch["views"]
    for given in ((*views, views[0]), views[:-1]):
        with pytest.raises(ValueError, match=rf"{objective.views} views, and this one has {len(given)}"):
            objective({**batch, "views": given})


def test_metadata_encoder_is_there_where_metadata_are_learned_from() -> None:
    assert build({"objective": "simclr"})[0].metadata_encoder is None
    assert build({"objective": "simclr"})[0].batch_keys == frozenset()
    assert build({"objective": "satmip"})[0].batch_keys == {"tokens"}
    assert build({"objective": "satmips", "metadata_encoder": "tabular"})[0].batch_keys == {"numeric", "mask", "categorical"}


@each_variant
def test_chance_is_the_loss_of_projections_that_give_zero(variant: dict[str, Any]) -> None:
    objective, settings = build(variant)
    last_layers = [
        m
        for name, m in objective.named_modules()
        if name in ("matching.image_projection", "matching.metadata_projection", "simclr.head.linear3")
    ]
    for layer in last_layers:
        assert isinstance(layer, torch.nn.Linear)
        torch.nn.init.zeros_(layer.weight)
        if layer.bias is not None:
            torch.nn.init.zeros_(layer.bias)
    if settings.metadata_loss == "siglip":
        # A pair is a true one once in K, and the bias says so.
        torch.nn.init.constant_(objective.get_parameter("matching.logit_bias"), -math.log(settings.batch_size - 1))
    parts = objective(tiny_batch(objective, settings.batch_size))
    chance = objective.chance()
    assert set(chance) == {name for name in parts if name.startswith("loss")}
    for name, level in chance.items():
        assert parts[name].item() == pytest.approx(level, rel=1e-6)


@pytest.mark.parametrize("negatives", ["both", "cross"])
@pytest.mark.parametrize("name", ["simclr", "satmip", "satmips", "satmips decoupled"])
def test_losses_are_those_of_the_projections_of_the_views(name: str, negatives: Any) -> None:
    more = {"temperature": 0.3, "negatives": negatives, "simclr_weight": 0.5, "mask_same_place": True}
    objective, _ = build({"objective": name.split()[0], "coupled": "decoupled" not in name, **more})
    batch = {**tiny_batch(objective), "place": torch.tensor([0, 0, 1, 2, 3, 3, 3, 4])}
    features, excluded = [objective.backbone(view) for view in batch["views"]], same_place(batch["place"])
    expected, total = {"masked_pairs": torch.tensor(2.0 + 6.0)}, torch.zeros(())
    if name != "simclr":
        image, text = objective.matching.image_projection(features[0]), objective.metadata_encoder(batch)
        text = objective.matching.metadata_projection(text)
        expected["loss_metadata"] = metadata_image_loss(image, text, 1 / 0.07, "exact", excluded)
        expected["temperature"] = torch.tensor(0.07)
        total = total + expected["loss_metadata"]
    if name != "satmip":
        one, two = (objective.simclr.head(view) for view in features[-2:])
        expected["loss_views"] = view_loss(one, two, 0.3, negatives, excluded)
        total = total + (1.0 if name == "simclr" else 0.5) * expected["loss_views"]
    parts = objective(batch)
    assert not any(part.requires_grad for key, part in parts.items() if key != "loss")
    torch.testing.assert_close(
        {key: part.detach() for key, part in parts.items()}, {**expected, "loss": total}, rtol=1e-5, atol=1e-6
    )


def test_satmips_is_the_weighted_sum_of_its_parts() -> None:
    objective, _ = build({"objective": "satmips", "simclr_weight": 0.25})
    parts = objective(tiny_batch(objective))
    torch.testing.assert_close(parts["loss"].detach(), parts["loss_metadata"] + 0.25 * parts["loss_views"])


@pytest.mark.parametrize("metadata_encoder", ["text", "tabular"])
def test_coupled_equals_decoupled_where_all_views_are_the_same(metadata_encoder: str) -> None:
    coupled, _ = build({"objective": "satmips", "metadata_encoder": metadata_encoder})
    decoupled, _ = build({"objective": "satmips", "metadata_encoder": metadata_encoder, "coupled": False})
    assert (coupled.views, decoupled.views) == (2, 3)
    decoupled.load_state_dict(coupled.state_dict())
    batch = tiny_batch(coupled)
    (view, _) = batch["views"]
    for objective, views in ((coupled, (view, view)), (decoupled, (view, view, view))):
        objective({**batch, "views": views})["loss"].backward()
    for (name, a), (_, b) in zip(coupled.named_parameters(), decoupled.named_parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-6, msg=name)


def test_satmips_uses_its_views_as_the_paper_says() -> None:
    coupled, _ = build({"objective": "satmips"})
    batch = tiny_batch(coupled)
    base = coupled(batch)
    other = torch.randn(8, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(9))
    changed = coupled({**batch, "views": (batch["views"][0], other)})
    assert changed["loss_metadata"] == base["loss_metadata"]
    assert changed["loss_views"] != base["loss_views"]
    decoupled, _ = build({"objective": "satmips", "coupled": False})
    batch = tiny_batch(decoupled)
    base = decoupled(batch)
    changed = decoupled({**batch, "views": (other, *batch["views"][1:])})
    assert changed["loss_metadata"] != base["loss_metadata"]
    torch.testing.assert_close(changed["loss_views"], base["loss_views"])


@pytest.mark.parametrize("name", ["satmip", "satmips"])
def test_after_step_keeps_the_temperature_within_bounds(name: str) -> None:
    objective, _ = build({"objective": name})
    scale = objective.get_parameter("matching.logit_scale")
    assert math.exp(-scale.item()) == pytest.approx(0.07)
    for value, expected in ((-1.0, 0.0), (2.0, 2.0), (9.0, math.log(100))):
        torch.nn.init.constant_(scale, value)
        objective.after_step()
        assert scale.item() == pytest.approx(expected)
        assert scale.requires_grad
    assert objective(tiny_batch(objective))["temperature"].item() == pytest.approx(0.01)


@each_variant
def test_losses_stay_float32_under_autocast(variant: dict[str, Any]) -> None:
    objective, _ = build(variant)
    batch = tiny_batch(objective)
    exact = objective(batch)
    with torch.autocast("cpu", torch.bfloat16):
        parts = objective(batch)
    for name, part in parts.items():
        assert part.dtype == torch.float32
        torch.testing.assert_close(part, exact[name], rtol=0.1, atol=0.05)
    parts["loss"].backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in objective.parameters())


def test_backbones_with_batch_norms_see_one_view_at_a_time() -> None:
    objective, _ = build({"objective": "simclr", "backbone": "test_resnet", "backbone_args": {}, "view_size": 32})
    one, two = torch.randn(2, 8, 3, 32, 32, generator=torch.Generator().manual_seed(0)) + torch.tensor([0.0, 5.0]).view(
        2, 1, 1, 1, 1
    )
    both = objective.encode((one, two))
    torch.testing.assert_close(both, (objective.backbone(one), objective.backbone(two)))
    assert not torch.allclose(objective.backbone(torch.cat([one, two]))[:8], both[0], atol=0.1)


def test_backbones_without_batch_norms_give_the_same_for_views_together_and_apart() -> None:
    objective, _ = build({"objective": "simclr"})
    views, passes = tiny_batch(objective)["views"], []
    objective.backbone.register_forward_hook(lambda *_: passes.append(1))
    together = objective.encode(views)
    assert passes == [1]
    torch.testing.assert_close(together, tuple(objective.backbone(view) for view in views))


@each_variant
def test_a_few_steps_on_one_batch_beat_chance_by_far(variant: dict[str, Any]) -> None:
    objective, settings = build({**variant, "lr_start": 0.0, "weight_decay": 0.0})
    optimizer = build_optimizer(objective, settings)
    for group in optimizer.param_groups:
        group["lr"] = 3e-3
    batch = tiny_batch(objective)
    for _ in range(40):
        loss = objective(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.after_step()
    assert loss.item() < objective.chance()["loss"] / 4


def test_siglip_starts_at_the_papers_temperature_and_bias() -> None:
    matching = build_objective(tiny_settings(objective="satmip", metadata_loss="siglip"), SHAPE).matching
    assert matching.temperature().item() == pytest.approx(0.1)
    assert matching.logit_bias.item() == -10.0
    assert build_objective(tiny_settings(objective="satmip"), SHAPE).matching.temperature().item() == pytest.approx(0.07)


def test_siglip_does_not_go_with_slips_gather() -> None:
    with pytest.raises(ValueError, match=r"--loss-gather slip .*siglip"):
        tiny_settings(metadata_loss="siglip", loss_gather="slip")


def test_projections_have_a_bias_on_demand() -> None:
    for bias in (False, True):
        names = dict(build_objective(tiny_settings(objective="satmip", projection_bias=bias), SHAPE).named_parameters())
        assert [f"matching.{side}_projection.bias" in names for side in ("image", "metadata")] == [bias, bias]


@pytest.mark.parametrize("name", ["simclr", "satmips"])
def test_heads_are_as_wide_as_they_are_set(name: str) -> None:
    objective, _ = build({"objective": name, "ssl_hidden": 40, "ssl_dim": 20})
    shapes = [tuple(objective.get_parameter(f"simclr.head.linear{i}.weight").shape) for i in (1, 2, 3)]
    assert shapes == [(40, 32), (40, 40), (20, 40)]

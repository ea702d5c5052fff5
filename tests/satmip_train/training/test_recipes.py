"""Recipes: every experiment of the paper resolves, and extends what it should; fields have the data side's names."""

import itertools
import re
from pathlib import Path

import pytest

from satmip_data.metadata import fields as data_fields
from satmip_train.config import Settings, experiment_names, load_recipe, recipe_names, resolve
from satmip_train.objectives import OBJECTIVES

MOCO = {"moco", "moco-geo", "moco-tp", "moco-geo-tp"}
"""Of Ayush et al., not of the paper."""
PAPER = [name for name in (*recipe_names(), *experiment_names()) if name not in {"tiny", "demo", "small"} | set(MOCO)]
RATES = {"simclr": (2.0e-4, 0.1), "satmip": (3.125e-5, 0.5), "satmips": (1.875e-4, 0.1)}


@pytest.mark.parametrize("name", PAPER)
def test_a_recipe_of_the_paper_has_what_all_its_experiments_share(name: str) -> None:
    settings = resolve(name, {})
    assert settings.objective in OBJECTIVES
    assert (settings.batch_size, settings.view_size, settings.warmup_epochs) == (1024, 224, 1)
    assert (settings.backbone, settings.backbone_args) == ("vit_small_patch16_224", {"num_heads": 12})
    assert (settings.lr_base, settings.weight_decay) == RATES[settings.objective.split("-")[0]]
    assert (settings.beta1, settings.beta2, settings.adam_eps) == (0.9, 0.98, 1e-8)
    assert (settings.text_layers, settings.text_width, settings.text_heads) == (3, 512, 8)
    assert (settings.tabular_layers, settings.tabular_width, settings.tabular_heads) == (3, 192, 8)
    assert (settings.embed_dim, settings.ssl_hidden, settings.ssl_dim, settings.temperature) == (512, 4096, 256, 0.1)
    assert (settings.optimizer, settings.wd_policy, settings.lr_start, settings.lr_end) == ("adamw", "slip", 1e-6, 1e-5)
    assert (settings.negatives, settings.loss_gather, settings.metadata_loss) == ("both", "exact", "clip")
    assert (settings.split, settings.knn_every, settings.max_steps, settings.micro_batch) == ("train", 0, None, None)
    assert not settings.mask_same_place
    assert settings.metadata_mask == 0
    assert settings.epochs in (25, 50, 100, 200)
    assert (settings.epochs == 200) == (
        not name.startswith("paper/") or name.startswith(("paper/table4", "paper/tableS5", "paper/satmip")) or name[-4:] == "-200"
    )


def test_every_table_has_its_rows() -> None:
    assert (
        set(recipe_names())
        == {"simclr", "simclr-geo", "simclr-tp", "simclr-geo-tp", "satmip", "satmips", "tiny", "demo", "small"} | MOCO
    )
    assert {resolve(name, {}).objective for name in recipe_names()} == set(OBJECTIVES)
    chosen = {name: resolve(name, {}) for name in experiment_names()}
    fig3 = {(s.objective, s.epochs) for name, s in chosen.items() if name.startswith("paper/fig3")}
    assert fig3 == {(objective, epochs) for objective in RATES for epochs in (25, 50, 100, 200)}
    assert {s.objective for name, s in chosen.items() if "table4" in name and s.init.endswith(".pt")} == set(RATES)
    table5 = {s.fields for name, s in chosen.items() if name.startswith("paper/table5-")}
    gsd, time, loc = "gsd", "timestamp", "location"
    pairs = {(gsd,), (time,), (loc,), (gsd, time), (gsd, loc), (time, loc), (gsd, time, loc)}
    assert table5 == pairs | {data_fields.ALIASES["all"], data_fields.ALIASES["angles"]}
    assert all(s.metadata_encoder == "tabular" and s.epochs == 25 for name, s in chosen.items() if "table5" in name)
    table6 = {(s.objective, s.policy, s.coupled) for name, s in chosen.items() if "table6" in name}
    sat = "simclr-sat"
    assert table6 == {
        ("simclr", sat, True),
        ("satmip", sat, True),
        ("satmip", "crop", True),
        ("satmips", sat, True),
        ("satmips", sat, False),
    }
    lambdas = {s.simclr_weight for name, s in chosen.items() if "tableS4" in name}
    assert lambdas == {0, 0.25, 0.5, 1, 2, 4}
    encoders = {(s.objective, s.metadata_encoder, s.epochs) for name, s in chosen.items() if "tableS5" in name or "tableS6" in name}
    assert encoders == {(o, e, n) for o in ("satmip", "satmips") for e in ("text", "tabular") for n in (25, 200)}


THREE = data_fields.DEFAULT_FIELDS
TABULAR, SHORT, HPT = {"metadata_encoder": "tabular"}, {"epochs": 25}, {"init": "slip_small_100ep.pt"}
FIELDS_OF_TABLE_5 = {
    "gsd": ("gsd",), "time": ("timestamp",), "loc": ("location",), "gsd-time": ("gsd", "timestamp"), "gsd-loc": ("gsd", "location"),
    "time-loc": ("timestamp", "location"), "gsd-time-loc": THREE, "all": data_fields.ALIASES["all"],
    "angles": ("target_azimuth_angle", "sun_azimuth_angle", "sun_elevation_angle", "off_nadir_angle"),
}  # fmt: skip
ROWS: dict[str, tuple[str, dict[str, object]]] = {
    **{f"fig3-{o}-{n}": (o, {"epochs": n}) for o in RATES for n in (25, 50, 100, 200)},
    **{f"table4-{o}": (o, HPT) for o in RATES},
    "satmip": ("satmip", {}),
    "satmips": ("satmips", {}),
    "table5": ("satmip", {**TABULAR, **SHORT}),
    **{f"table5-{row}": ("satmip", {**TABULAR, **SHORT, "fields": names}) for row, names in FIELDS_OF_TABLE_5.items()},
    **{f"table6-{o}": (o, SHORT) for o in RATES},
    "table6-satmip-crop": ("satmip", {**SHORT, "policy": "crop"}),
    "table6-satmips-decoupled": ("satmips", {**SHORT, "coupled": False}),
    **{f"tableS4-lambda-{weight:g}": ("satmips", {**SHORT, "simclr_weight": weight}) for weight in (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)},
    **{f"tableS5-{o}-{e}": (o, {"metadata_encoder": e}) for o in ("satmip", "satmips") for e in ("text", "tabular")},
    **{f"tableS6-{o}-{e}-25": (o, {**SHORT, "metadata_encoder": e}) for o in ("satmip", "satmips") for e in ("text", "tabular")},
}
"""Every row of the paper's experiments: its objective's recipe, and what differs (sections 4.5 to 4.7, supplement B, G; poster)."""


def test_every_experiment_is_its_objectives_recipe_and_what_its_row_says() -> None:
    assert {f"paper/{name}" for name in ROWS} == set(experiment_names())
    for name, (objective, differs) in ROWS.items():
        known = {} if objective == "simclr" else {"fields": THREE}
        assert resolve(f"paper/{name}", {}) == resolve(objective, {**known, **differs}), name


def test_a_recipe_says_only_what_differs(tmp_path: Path) -> None:
    assert load_recipe("paper/table6-satmips-decoupled") == {
        **load_recipe("satmips"), "fields": list(data_fields.DEFAULT_FIELDS), "epochs": 25, "coupled": False,
    }  # fmt: skip
    assert resolve("paper/fig3-satmip-50", {"epochs": 3}).epochs == 3


def test_files_extend_recipes_and_files_beside_them(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "ground.toml").write_text('extends = "satmip"\nseed = 2\njitter = 0.5')
    (tmp_path / "base.toml").write_text('extends = "ground.toml"\nseed = 3\nepochs = 7')
    (tmp_path / "deep/mine.toml").write_text('extends = "../base.toml"\nepochs = 9')
    settings = resolve(str(tmp_path / "deep/mine.toml"), {})
    assert (settings.objective, settings.jitter, settings.seed, settings.epochs) == ("satmip", 0.5, 3, 9)


def test_a_circle_and_an_unknown_recipe_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('extends = "b.toml"')
    (tmp_path / "b.toml").write_text('extends = "a.toml"')
    with pytest.raises(ValueError, match=r"extends itself: .*a\.toml -> .*b\.toml -> .*a\.toml"):
        load_recipe(str(tmp_path / "a.toml"))
    (tmp_path / "c.toml").write_text('extends = "byol"')
    with pytest.raises(ValueError, match='"byol"'):
        load_recipe(str(tmp_path / "c.toml"))


def test_a_file_that_is_none_or_no_toml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "half.toml").write_text("epochs = ")
    for name in ("half", "missing"):
        with pytest.raises(ValueError, match=rf"Cannot read the recipe .*{name}\.toml: "):
            load_recipe(str(tmp_path / f"{name}.toml"))


def test_settings_expand_aliases_of_fields_in_the_tables_order() -> None:
    assert Settings(fields=("loc", "GSD", "time")).fields == ("gsd", "timestamp", "location")
    assert Settings(fields=("angles", "sun_azimuth")).fields == data_fields.ALIASES["angles"]
    assert Settings().fields is None
    for words in (("height",), ()):
        with pytest.raises(ValueError, match=r"satmip-data fields"):
            Settings(fields=words)


def test_the_page_of_experiments_lists_every_recipe() -> None:
    page = (Path(__file__).parents[3] / "docs/experiments.md").read_text()
    listed: set[str] = set()
    for written in re.findall(r"`((?:paper/|simclr|satmip|moco)[^` ]*)`", page):
        choices = [part.strip("{}").split(",") if part.startswith("{") else [part] for part in re.split(r"(\{[^}]*\})", written)]
        listed |= {"".join(chosen) for chosen in itertools.product(*choices)}
    assert set(experiment_names()) - {"paper/table5"} == {name for name in listed if name.startswith("paper/")}
    assert set(recipe_names()) - {"tiny", "demo", "small"} == {name for name in listed if not name.startswith("paper/")}


DEFAULTS = {
    "objective": "satmips", "split": "train", "seed": 0, "backbone": "vit_small_patch16_224",
    "backbone_args": {"num_heads": 12}, "cls_token_std": 0.02, "init": "random", "init_heads": None,
    "metadata_encoder": "text", "fields": None, "text_layers": 3, "text_width": 512, "text_heads": 8, "tabular_layers": 3,
    "tabular_width": 192, "tabular_heads": 8, "tabular_attention_dropout": 0.2, "tabular_ffn_dropout": 0.1, "embed_dim": 512,
    "ssl_hidden": 4096, "ssl_dim": 256, "text_model": None, "text_tune": False, "metadata_mask": 0.0,
    "tabular_final_norm": False, "projection_bias": False, "text_pool": "start", "text_attend_padding": False, "coupled": True,
    "metadata_weight": 1.0, "simclr_weight": 1.0, "moco_weight": 1.0,
    "temperature": 0.1, "metadata_loss": "clip", "negatives": "both", "loss_gather": "exact",
    "mask_same_place": False, "geo_clusters": 100, "geo_space": "raw", "geo_weight": 1.0, "queue_length": 65536,
    "key_momentum": 0.999, "geo_input": "projection", "view_size": 224, "policy": "simclr-sat", "jitter": 1.0, "epochs": 200,
    "max_steps": None, "batch_size": 1024, "lr_base": 0.0001875, "lr_start": 1e-06, "lr_end": 1e-05, "warmup_epochs": 1,
    "weight_decay": 0.1, "wd_policy": "slip", "beta1": 0.9, "beta2": 0.98, "adam_eps": 1e-08, "optimizer": "adamw",
    "sgd_momentum": 0.9, "precision": "auto", "compile": None, "workers": 2, "shuffle_shards": 16, "data": "auto",
    "micro_batch": None, "grad_checkpointing": False, "activation_budget": 1.0, "residual": "fp32", "attention": "auto",
    "tf32": "views", "trim_tokens": True, "log_every": 10, "checkpoint_every": 500, "knn_every": 0, "knn_samples": 10000,
    "report_to": (), "shuffle_metadata": False,
}  # fmt: skip


def test_what_nobody_chose_is_what_it_was() -> None:
    """A run that was saved before there was a setting goes on with its default."""
    assert Settings().model_dump() == DEFAULTS


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", -1), ("seed", 2**32), ("cls_token_std", 0), ("metadata_mask", 1), ("temperature", 0), ("batch_size", 1),
        ("knn_samples", 1), ("epochs", 0), ("epochs", float("inf")), ("simclr_weight", -1), ("key_momentum", 1.1),
        ("tabular_ffn_dropout", 1), ("geo_clusters", 1), ("lr_base", 0), ("beta2", 1), ("activation_budget", 1.1), ("max_steps", 0),
        ("no_setting", 1), ("view_size", 15), ("lr_start", 7.6e-4), ("text_model", "bert"), ("metadata_encoder", "pretrained"),
        ("backbone_args", {"in_chans": 4}), ("backbone_args", {"num_classes": 2}), ("backbone_args", {"pretrained": True}),
    ],
)  # fmt: skip
def test_what_is_out_of_bounds_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        Settings.model_validate({name: value})


def test_bounds_may_be_met() -> None:
    peak = Settings().peak_lr
    assert peak == 1.875e-4 * 1024 / 256
    settings = Settings(
        seed=2**32 - 1, metadata_mask=0, simclr_weight=0, key_momentum=1, batch_size=2, knn_samples=2, lr_start=1.875e-4 / 128,
        loss_gather="slip", metadata_encoder="pretrained", text_model="bert",
    )  # fmt: skip
    assert settings.lr_start == settings.peak_lr
    assert Settings(lr_start=5e-4).lr_start > Settings().lr_base
    assert Settings.model_validate(settings) == settings
    with pytest.raises(ValueError, match="frozen"):
        settings.seed = 1

"""Recipes: every experiment of the paper resolves, and extends what it should; fields have the data side's names."""

import itertools
import re
from pathlib import Path

import pytest

from satmip_data import fields as data_fields
from satmip_train import fields
from satmip_train.config import Settings, experiment_names, load_recipe, recipe_names, resolve
from satmip_train.objectives import OBJECTIVES

MOCO = {"moco", "moco-geo", "moco-tp", "moco-geo-tp"}
"""Of Ayush et al., not of the paper."""
PAPER = [name for name in (*recipe_names(), *experiment_names()) if name != "tiny" and name not in MOCO]
RATES = {"simclr": (2.0e-4, 0.1), "satmip": (3.125e-5, 0.5), "satmips": (1.875e-4, 0.1)}


@pytest.mark.parametrize("name", PAPER)
def test_a_recipe_of_the_paper_has_what_all_its_experiments_share(name: str) -> None:
    settings = resolve(name, {})
    assert settings.objective in OBJECTIVES
    assert (settings.batch_size, settings.view_size, settings.warmup_epochs) == (1024, 224, 1)
    assert (settings.backbone, settings.backbone_args) == ("vit_small_patch16_224", {"num_heads": 12})
    assert (settings.lr_base, settings.weight_decay) == RATES[settings.objective.split("-")[0]]
    assert (settings.beta1, settings.beta2, settings.adam_eps) == (0.9, 0.98, 1e-8)
    assert not settings.mask_same_place
    assert settings.metadata_mask == 0
    assert settings.epochs in (25, 50, 100, 200)
    assert (settings.epochs == 200) == (
        not name.startswith("paper/") or name.startswith(("paper/table4", "paper/tableS5")) or name[-4:] == "-200"
    )


def test_every_table_has_its_rows() -> None:
    assert set(recipe_names()) == {"simclr", "simclr-geo", "simclr-tp", "simclr-geo-tp", "satmip", "satmips", "tiny"} | MOCO
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


def test_a_recipe_says_only_what_differs(tmp_path: Path) -> None:
    assert load_recipe("paper/table6-satmips-decoupled") == {**load_recipe("satmips"), "epochs": 25, "coupled": False}
    assert resolve("paper/fig3-satmip-50", {"epochs": 3}).epochs == 3


def test_files_extend_recipes_and_files_beside_them(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "base.toml").write_text('extends = "satmip"\nseed = 3\nepochs = 7')
    (tmp_path / "deep/mine.toml").write_text('extends = "../base.toml"\nepochs = 9')
    settings = resolve(str(tmp_path / "deep/mine.toml"), {})
    assert (settings.objective, settings.seed, settings.epochs) == ("satmip", 3, 9)


def test_a_circle_and_an_unknown_recipe_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('extends = "b.toml"')
    (tmp_path / "b.toml").write_text('extends = "a.toml"')
    with pytest.raises(ValueError, match=r"must not extend itself, however: .*a\.toml -> .*b\.toml -> .*a\.toml"):
        load_recipe(str(tmp_path / "a.toml"))
    (tmp_path / "c.toml").write_text('extends = "byol"')
    with pytest.raises(ValueError, match=r"an experiment of \['paper/fig3-satmip-100'.*however: 'byol'"):
        load_recipe(str(tmp_path / "c.toml"))


def test_fields_and_aliases_are_those_of_the_data_side() -> None:
    assert tuple(field.name for field in data_fields.FIELDS) == fields.FIELDS
    assert {name: stands for name, stands in data_fields.ALIASES.items() if name not in fields.FIELDS} == fields.ALIASES


def test_settings_expand_aliases_of_fields_in_the_tables_order() -> None:
    assert Settings(fields=("loc", "GSD", "time")).fields == ("gsd", "timestamp", "location")
    assert Settings(fields=("angles", "sun_azimuth")).fields == data_fields.ALIASES["angles"]
    assert Settings().fields is None
    for words in (("height",), ()):
        with pytest.raises(ValueError, match=r"fields must be of gsd, .* all, however"):
            Settings(fields=words)


def test_the_page_of_experiments_lists_every_recipe() -> None:
    page = (Path(__file__).parent.parent / "docs/experiments.md").read_text()
    listed: set[str] = set()
    for written in re.findall(r"`((?:paper/|simclr|satmip|moco)[^` ]*)`", page):
        choices = [part.strip("{}").split(",") if part.startswith("{") else [part] for part in re.split(r"(\{[^}]*\})", written)]
        listed |= {"".join(chosen) for chosen in itertools.product(*choices)}
    assert set(experiment_names()) - {"paper/table5"} == {name for name in listed if name.startswith("paper/")}
    assert set(recipe_names()) - {"tiny"} == {name for name in listed if not name.startswith("paper/")}

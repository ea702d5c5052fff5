"""One version: of the project, of both packages, of what the commands say and of the installed package."""

import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner

import satmip_data
import satmip_train
from satmip_data.cli.commands import main as data
from satmip_train.cli.evaluate import main as evaluate
from satmip_train.cli.train import main as train

ROOT = Path(__file__).parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]


def test_packages_and_commands_say_the_version_of_the_project() -> None:
    assert satmip_data.__version__ == satmip_train.__version__ == VERSION
    for command in (data, train, evaluate):
        assert CliRunner().invoke(command, ["--version"]).output.endswith(f"version {VERSION}\n")
    assert f"version: {VERSION}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{VERSION}]" in changelog or "## [Unreleased]" in changelog


def test_the_installed_package_says_the_same() -> None:
    installed = version("satmip")
    if installed != VERSION:
        pytest.skip(f"installed as {installed}, before the version changed: pip install -e .")
    assert installed == satmip_data.__version__

"""What a message says of a package that is not installed."""

import re
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from satmip_data.cli.commands import main
from satmip_data.errors import OPTIONAL, install, missing_package
from satmip_data.storage import store
from satmip_train.data.dataset import open_dataset
from satmip_train.errors import UsageError


@pytest.mark.parametrize(
    ("package", "command"),
    [("s3fs", "pip install 's3fs>=2026.6'"), ("h5py", "pip install 'h5py>=3.11'"), ("gcsfs", "pip install gcsfs")],
)
def test_a_package_is_installed_by_its_name_at_the_version_that_is_needed(package: str, command: str) -> None:
    assert install(package) == command


def test_versions_are_those_of_the_project() -> None:
    declared = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    lines = [*declared["dependencies"], *(line for extra in declared["optional-dependencies"].values() for line in extra)]
    for package, floor in OPTIONAL.items():
        wanted = re.compile(rf"{package}>={re.escape(floor)}(?![.\d])")
        assert any(wanted.match(line) for line in lines), package


@pytest.mark.parametrize(
    ("url", "package"), [("s3://bucket/x", "s3fs"), ("http://127.0.0.1:1/x", "aiohttp"), ("gs://bucket/x", "gcsfs")]
)
def test_the_advice_names_the_package_that_is_missing(
    url: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it named s3fs whatever was missing."""
    monkeypatch.setitem(sys.modules, package, None)
    for module in [name for name in sys.modules if name.startswith("fsspec.implementations.http")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys.modules["fsspec.registry"], "_registry", {})
    store._connect.cache_clear()
    result = CliRunner().invoke(main, ["build", url, str(tmp_path / "out"), "--source", "imagefolder"])
    assert result.exit_code == 1
    assert result.output.rstrip().endswith(install(package))
    assert result.output.count("pip install") == 1
    with pytest.raises(UsageError) as error:
        open_dataset(url)
    assert str(error.value).endswith(install(package))
    store._connect.cache_clear()


def test_an_import_that_fails_for_another_reason_names_no_package() -> None:
    assert missing_package(ImportError("cannot import name x")) is None
    inner = ModuleNotFoundError("no", name="google.cloud")
    outer = ImportError("Please install what reads it")
    outer.__cause__ = inner
    assert missing_package(outer) == "google"

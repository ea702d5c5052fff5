"""What holds for every test."""

import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import settings

# Behind nohup, or in the background of a script, Ctrl-C is ignored, here and in all that is started here; tests of it would fail.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in every run, and no failure because a machine is busy.
settings.register_profile("satmip", deadline=None, derandomize=True)
settings.load_profile("satmip")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Golden records are written anew on request alone, and the tests that do so fail."""
    parser.addoption("--update-golden", action="store_true", help="write golden records anew, and fail")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """On a GPU, what torch and its compiler remark is shown and no failure: torch's mode that finds waits remarks on itself."""
    for item in items:
        if item.get_closest_marker("gpu") is not None:
            item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture(scope="session", autouse=True)
def _elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test finds what lies in the folder it was started in, nor in the user's cache, or leaves anything there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test begins in a folder of its own."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Toy shards in two splits, with missing values; not to be changed."""
    from helpers.toy_shards import write_toy_shards

    return write_toy_shards(tmp_path_factory.mktemp("toy") / "shards", {"train": 21, "val": 7}, shards=3, missing=0.2)


@pytest.fixture
def copy(toy: Path, tmp_path: Path) -> Callable[..., Path]:
    """A function that copies the toy shards, with changes to their `dataset.json`; see `edited_copy`."""
    from helpers.toy_shards import edited_copy

    return partial(edited_copy, toy, tmp_path / "copy")


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small fMoW tree; not to be changed."""
    from helpers.fmow_tree import write_fmow_tree

    root = tmp_path_factory.mktemp("fmow")
    write_fmow_tree(root)
    return root


@pytest.fixture
def built(tree: Path, tmp_path: Path) -> Path:
    """The shards of the tree, the test's own."""
    from helpers.fmow_builds import request

    from satmip_data.pipeline.build import build

    build(request(tree, tmp_path / "shards"))
    return tmp_path / "shards"

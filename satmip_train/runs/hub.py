"""Exports in repositories of the Hugging Face hub."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from satmip_data.errors import cause, install
from satmip_train.errors import UsageError
from satmip_train.files import CONFIG, METADATA_WEIGHTS, PROJECTIONS, WEIGHTS
from satmip_train.runs import timm_format

PREFIX = "hf-hub:"
_CLIENTS = ("httpx", "httpx2", "requests", "aiohttp")


def push(run: Path, files: Sequence[Path], repository: str) -> str:
    """Upload exported files with their configs to a model repository of the Hugging Face hub and return its address.

    The folder for timm becomes the top of the repository, where timm looks.

    Raises:
        UsageError: huggingface_hub is not installed, or the hub refuses.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise UsageError(f"--push needs huggingface_hub, which is not installed. Run: {install('huggingface_hub')}") from error
    folders = {path.parent for path in files}
    with _reaching("The hub refused the files: {}. Run: hf auth login   or use another --push"):
        url = HfApi().create_repo(repository, repo_type="model", exist_ok=True)
        for folder in sorted(folders):
            listed = [path for path in files if path.parent == folder]
            names = {name for path in listed for name in (path.name, path.with_suffix(".json").name) if (folder / name).exists()}
            if folder.name == timm_format.FOLDER:
                names.add(timm_format.CONFIG)
            HfApi().upload_folder(
                repo_id=repository,
                folder_path=folder,
                allow_patterns=sorted(names),
                commit_message="Upload with satmip-train export",
            )
    return str(url)


def fetch(name: str) -> Path:
    """Return a local folder with the export that "hf-hub:USER/MODEL" names, downloaded where it is not kept yet.

    A revision may follow, as in "hf-hub:USER/MODEL@v1".

    Raises:
        UsageError: huggingface_hub is not installed, or the hub has no such repository or cannot be reached.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise UsageError(f"{name} needs huggingface_hub, which is not installed. Run: {install('huggingface_hub')}") from error
    repository, _, revision = name.removeprefix(PREFIX).partition("@")
    weights = [WEIGHTS, METADATA_WEIGHTS, PROJECTIONS]
    patterns = [*weights, *(str(Path(file).with_suffix(".json")) for file in weights), CONFIG]
    with _reaching(f"Cannot get {name} from the Hugging Face hub: {{}}. Check the name"):
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=patterns))


@contextmanager
def _reaching(refused: str) -> Iterator[None]:
    """Turn what the hub or the way to it refuse into one message."""
    try:
        yield
    except Exception as error:
        # The hub's client has changed its HTTP library and does not translate all of its errors. Those of requests are OSErrors.
        if type(error).__module__.partition(".")[0] in _CLIENTS:
            raise UsageError(f"Cannot reach the hub: {cause(error)}. Check the network and HF_ENDPOINT.") from error
        # Its own errors are OSErrors or ValueErrors, some of them both.
        if not isinstance(error, (OSError, ValueError)) and not type(error).__module__.startswith("huggingface_hub."):
            raise
        raise UsageError(refused.format(error)) from error

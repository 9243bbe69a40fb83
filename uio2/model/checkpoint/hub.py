"""Where a Hugging Face checkpoint is: a folder here, or a repository of the hub, downloaded to its cache."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from uio2.model.checkpoint.tree import CheckpointError

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
PARTS = "model.safetensors.index.json"
PICKLED = "pytorch_model.bin"
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def resolve(path_or_repo: str | Path, *, revision: str | None = None) -> Path:
    """The folder; a name like `allenai/uio2-large` that is no folder here is downloaded.

    Args:
      path_or_repo: the folder, or `owner/name` on the hub (or on `HF_ENDPOINT`).
      revision: branch, tag or commit of the repository.

    Raises:
      CheckpointError: there is no such folder and nothing to download it with, or the repository has no weights.
    """
    path = Path(path_or_repo)
    if path.is_dir():
        return path
    if not _REPOSITORY.fullmatch(str(path_or_repo)):
        raise CheckpointError(f"{path_or_repo} is neither a folder nor a repository's name like allenai/uio2-large")
    try:
        import huggingface_hub
    except ImportError as e:
        raise CheckpointError(
            f"{path_or_repo} is no folder here; to download it from the hub: pip install 'uio2[hub]'. Or fetch "
            f"{CONFIG} and {WEIGHTS} by other means and give the folder they are in"
        ) from e
    try:
        return _download(huggingface_hub, str(path_or_repo), revision)
    except huggingface_hub.errors.HfHubHTTPError as e:
        reason = next((line for line in str(e).splitlines() if line.strip()), type(e).__name__)
        raise CheckpointError(
            f"{path_or_repo} cannot be had from the hub ({reason}); check its name and the revision, and log in with "
            f"`hf auth login` if it is private"
        ) from e


def _download(hub: Any, repository: str, revision: str | None) -> Path:
    """The configuration and one form of the weights, in the client's cache."""
    files = set(hub.list_repo_files(repository, revision=revision))
    chosen = [name for name in (WEIGHTS, PARTS, PICKLED) if name in files][:1]
    if not chosen:
        raise CheckpointError(f"{repository} has none of {WEIGHTS}, {PARTS}, {PICKLED}; it has {sorted(files)}")
    wanted = [CONFIG, *chosen, *(["model-*.safetensors"] if chosen == [PARTS] else [])]
    return Path(hub.snapshot_download(repository, revision=revision, allow_patterns=wanted))

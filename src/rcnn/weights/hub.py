"""Checkpoints on the Hugging Face Hub: `hf:owner/name[@revision]` is read, and `push` writes one with a model card.

Needs rcnn[hub]. Downloads are kept below RCNN_CACHE; HF_ENDPOINT and the user's login (HF_TOKEN) are used.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from rcnn.arguments import as_text
from rcnn.background import in_background
from rcnn.commands import as_typed
from rcnn.data.messages import counted, few
from rcnn.download.fetch import NAME_PATIENCE, require_host
from rcnn.models.config import DetectorConfig
from rcnn.weights.catalogue.cache import cache_folder, is_offline
from rcnn.weights.checkpoint import Checkpoint, checkpoint_files, read_checkpoint
from rcnn.weights.files import CONFIG_FILE, WEIGHTS_FILE
from rcnn.weights.record import is_record

PREFIX = "hf:"
HUB = "https://huggingface.co"
CARD = "README.md"
MARK = "<!-- written by rcnn push -->"  # cards with it are replaced, others are kept
NAME = re.compile(r"hf:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
TIMEOUT = 10.0  # seconds for the first answer
PATIENCE = 16.0  # seconds for the first MIN_BYTES; so a command without a network ends within 30 seconds
STALLED = 60.0  # seconds for each further MIN_BYTES: the library may write in large pieces
MIN_BYTES = 16 * 1024


def is_hub_name(word: str) -> bool:
    """Whether `word` names a repository of the Hub."""
    return word.startswith(PREFIX)


def require_hub_name(name: str) -> tuple[str, str | None]:
    """The repository and the revision in `hf:owner/name[@revision]`. Raises ValueError for another name."""
    if not (parts := NAME.fullmatch(name)):
        raise ValueError(f"{name} is not the name of a repository; expected hf:owner/name or hf:owner/name@revision")
    return parts[1], parts[2] or None


def folder_name(name: str) -> str:
    """The name of a folder for `hf:owner/name[@revision]`, without the owner."""
    return name.partition("/")[2].replace("/", "-")  # a revision may be refs/pr/1


def pull(name: str) -> Path:
    """The folder of the checkpoint `hf:owner/name[@revision]`, downloaded if it is not in the cache.

    Raises ValueError for a wrong name or a repository without an rcnn checkpoint, ImportError without rcnn[hub],
    FileNotFoundError if it is not in the cache and downloads are forbidden, ConnectionError if it cannot be downloaded.
    """
    repository, revision = require_hub_name(name)
    hub, unknown = import_hub(), _unknown_host()
    try:
        files = _downloaded(hub, repository, revision, cached=is_offline() or unknown is not None)
    except hub.errors.GatedRepoError as error:  # also a RepositoryNotFoundError
        address = f"{os.environ.get('HF_ENDPOINT') or HUB}/{repository}"
        raise ConnectionError(
            f"{name} is gated: accept its conditions at {address}, and log in (hf auth login)"
        ) from error
    except (hub.errors.RepositoryNotFoundError, hub.errors.RevisionNotFoundError) as error:
        what = f"revision {revision} of {repository}" if revision else repository
        raise ValueError(
            f"{name}: the Hub has no {what}, or it is private and you are not logged in (hf auth login)"
        ) from error
    except (hub.errors.HfHubHTTPError, hub.errors.LocalEntryNotFoundError, OSError, *_connection_errors()) as error:
        if is_offline():
            raise FileNotFoundError(
                f"{name} is not in the cache, and --offline (RCNN_OFFLINE) forbids downloads. {_by_hand(repository)}"
            ) from error
        reason = _first_line(unknown or error)
        raise ConnectionError(f"{name} cannot be downloaded: {reason}. {_by_hand(repository)}") from error
    if missing := [file for file in (CONFIG_FILE, WEIGHTS_FILE) if file not in files]:
        raise ValueError(f"{name} has no {' and '.join(missing)}: it is not a checkpoint of rcnn")
    return files[CONFIG_FILE].parent


def _unknown_host() -> OSError | None:
    """Why the name of the Hub's server cannot be resolved; None if it can, or if downloads are forbidden.

    huggingface_hub would try again for half a minute, with a line for each attempt.
    """
    try:
        if not is_offline():
            require_host(os.environ.get("HF_ENDPOINT") or HUB, NAME_PATIENCE)
    except OSError as error:
        return error
    return None


def _downloaded(hub: Any, repository: str, revision: str | None, *, cached: bool) -> dict[str, Path]:
    """The files of a checkpoint by name, all from one commit; files that the repository does not have are skipped.

    `cached`: only files in the cache. Raises TimeoutError if the server sends nothing. huggingface_hub itself waits for
    minutes, and forever if single bytes arrive. Its `snapshot_download` is not used: Python waits for its threads at
    exit.
    """
    api, cache = _api(hub), cache_folder() / "hub"
    files: dict[str, Path] = {}
    for file in (CONFIG_FILE, WEIGHTS_FILE):
        download = in_background(
            partial(
                api.hf_hub_download,
                repository,
                file,
                revision=next((path.parent.name for path in files.values()), revision),
                cache_dir=cache,
                local_files_only=cached,
                etag_timeout=TIMEOUT,
            )
        )
        with suppress(hub.errors.RemoteEntryNotFoundError):
            files[file] = Path(while_it_grows(download, cache / f"models--{repository.replace('/', '--')}"))
    return files


def while_it_grows(download: Future[str], folder: Path) -> str:
    """The result of a download to `folder`. Raises TimeoutError if the folder grows too slowly."""
    changed, before, patience = time.monotonic(), _size(folder), PATIENCE
    while True:
        try:
            return download.result(timeout=0.2)
        except TimeoutError:
            if download.done():  # since the wait ended; or this is an error of the download itself
                return download.result()
        if (size := _size(folder)) >= before + MIN_BYTES:
            changed, before, patience = time.monotonic(), size, STALLED
        elif time.monotonic() - changed > patience:
            raise TimeoutError(f"fewer than {MIN_BYTES:,} bytes arrived in {patience:g} seconds")


def _size(folder: Path) -> int:
    """Bytes of the files below `folder`, incomplete files included."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def push(
    checkpoint: str | Path, repository: str, *, metrics: Mapping[str, float] | None = None, private: bool = False
) -> str:
    """Upload a checkpoint or the best one of a run, with a model card, to the repository `owner/name`; returns its URL.

    The repository is created if needed. `metrics` (0..1) are shown on the card. A README.md that rcnn did not write is
    kept. Raises ValueError for a wrong name, offline mode, a checkpoint of only a backbone, or a repository with a
    config.json that rcnn did not write, ImportError without rcnn[hub], ConnectionError if the upload fails.
    """
    repository = as_text(repository, "the repository", "owner/name")
    if not NAME.fullmatch(f"{PREFIX}{repository}") or "@" in repository:
        raise ValueError(f"{repository} is not the name of a repository; expected owner/name")
    if is_offline():
        raise ValueError(f"{repository} cannot be written: RCNN_OFFLINE forbids the use of the network; unset it")
    loaded = read_checkpoint(checkpoint)
    if loaded.kind != "detector":
        raise ValueError(f"{checkpoint} contains only a backbone; only detectors can be pushed")
    hub = import_hub()
    api = _api(hub)
    try:
        if not api.repo_exists(repository):
            api.create_repo(repository, private=private, exist_ok=True)
        keeps_card = _require_ours(api, repository)
        with tempfile.TemporaryDirectory() as temporary:
            for file in checkpoint_files(checkpoint):
                shutil.copy(file, temporary)
            if not keeps_card:
                (Path(temporary) / CARD).write_text(model_card(loaded, repository, metrics or {}), encoding="utf-8")
            api.upload_folder(
                repo_id=repository, folder_path=temporary, commit_message=f"{loaded.config.name}, by rcnn push"
            )
    except hub.errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        cure = "log in with `hf auth login`, or set HF_TOKEN" if status in (401, 403) else "try again later"
        raise ConnectionError(f"{repository} cannot be written: {_first_line(error)}; {cure}") from error
    except _connection_errors() as error:
        raise ConnectionError(
            f"{repository} cannot be written: {api.endpoint} cannot be reached ({error}). Check the network and the "
            "proxy settings (HTTPS_PROXY)"
        ) from error
    return f"{api.endpoint}/{repository}"


def _first_line(error: Exception) -> str:
    """The first line of a message; the type of an error without one."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _connection_errors() -> tuple[type[Exception], ...]:
    """The exceptions that huggingface_hub's HTTP library raises if a server cannot be reached."""
    loaded = [sys.modules[name] for name in ("httpx", "httpx2", "requests") if name in sys.modules]
    own = [getattr(one, "TransportError", None) or one.RequestException for one in loaded]
    return (ConnectionError, TimeoutError, *own)


def _require_ours(api: Any, repository: str) -> bool:
    """Raise ValueError if rcnn did not write the config.json; returns whether the README.md is one to keep."""
    files = api.list_repo_files(repository)

    def text(file: str) -> str:
        path = api.hf_hub_download(repository, file, cache_dir=cache_folder() / "hub", etag_timeout=TIMEOUT)
        return Path(path).read_text(encoding="utf-8", errors="replace")

    if CONFIG_FILE in files and not is_record(text(CONFIG_FILE)):
        raise ValueError(
            f"{repository} has a {CONFIG_FILE} that does not belong to an rcnn checkpoint, so it is not replaced: "
            "choose another repository"
        )
    return CARD in files and MARK not in text(CARD)


def model_card(checkpoint: Checkpoint, repository: str, metrics: Mapping[str, float]) -> str:
    """README.md of a repository: what the model is, how to use it, what it scores, where its weights come from."""
    config, classes = checkpoint.config, checkpoint.classes
    task, tags = _task(config)
    provenance = checkpoint.provenance
    start = provenance.get("weights") or provenance.get("started_from") or provenance.get("converted_from") or "unknown"
    lines = [
        "---", "library_name: rcnn", f"pipeline_tag: {task}", "tags:", *(f"- {tag}" for tag in tags), "---", MARK, "",
        f"# {repository.partition('/')[2]}", "",
        f"`{config.name}` of [rcnn](https://github.com/rcnn/rcnn), {counted(len(classes), 'class')}: "
        f"{few(classes, 20)}.", "",
        "```", "pip install 'rcnn[hub]'", as_typed("rcnn", "predict", f"{PREFIX}{repository}", "photo.jpg"), "```", "",
        "```python", "import rcnn", "", f'predictor = rcnn.Predictor("{PREFIX}{repository}")',
        'for found in predictor.predict("photo.jpg"):', "    print(found.name, found.score, found.box)", "```", "",
        "| | |", "|---|---|",
        *(f"| {name} | {value:.3f} |" for name, value in metrics.items()),
        f"| shorter side of the images | {config.input.min_size} pixels, longer up to {config.input.max_size} |",
        f"| weights started from | {start} |",
        f"| parameters | {sum(value.numel() for value in checkpoint.state.values()):,} |", "",
        "The licence of the weights and of the training data is not known to rcnn; add it here.", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _task(config: DetectorConfig) -> tuple[str, list[str]]:
    """The Hub's name of the task, and the tags."""
    if config.keypoint is not None:
        return "keypoint-detection", ["keypoint-detection", "object-detection", "r-cnn"]
    if config.has_masks:
        return "image-segmentation", ["instance-segmentation", "object-detection", "r-cnn"]
    return "object-detection", ["object-detection", "r-cnn"]


def _by_hand(repository: str) -> str:
    endpoint = os.environ.get("HF_ENDPOINT", "") or HUB
    return (
        f"If this computer has no network, download {CONFIG_FILE} and {WEIGHTS_FILE} on another one:\n"
        f"{endpoint}/{repository}/tree/main\n"
        "Put both into one folder, and give that folder instead of the name"
    )


def _api(hub: Any) -> Any:
    """The Hub's client; HF_ENDPOINT is read at each call, not when the library is imported."""
    return hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, library_name="rcnn")


def import_hub() -> Any:
    """The huggingface_hub library, an extra; the ImportError says how to install it."""
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise ImportError(
            "names that start with hf: need huggingface-hub, which is not installed: pip install 'rcnn[hub]'"
        ) from error

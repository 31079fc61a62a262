"""Files of the Hugging Face hub: from the cache first, and an answer within seconds when there is no network."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from bsap.errors import ModelError

_TIMEOUT = 5.0  # seconds for a connection that an evaluation will otherwise wait for in vain
_OPEN_CLIP = (
    "Either name a folder, `name: local-dir:FOLDER` (open_clip_config.json, open_clip_model.safetensors and, for "
    "tokenizers other than CLIP's, the tokenizer's files), or name a weight file, `pretrained: FILE`."
)


def hub_file(repo: str, names: Sequence[str], *, model: str, fix: str = "") -> Path:
    """The first of several files that a repository has.

    Cached files are taken without asking the hub: the same run gives the same weights with and without a network.

    Args:
        repo: ``organisation/repository``.
        names: file names, the most wanted first.
        model: how errors call the model.
        fix: how to name the model without a network; "" is the advice for models of open_clip.

    Raises:
        ModelError: no network, no such repository or no such file.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError

    for name in names:
        try:
            return Path(hf_hub_download(repo, name, local_files_only=True))
        except LocalEntryNotFoundError:
            continue
        except HFValidationError as error:
            raise ModelError(f"Model {model!r}: {error}") from error
    if not reachable():
        raise offline(model, f"{repo}/{names[0]}", fix=fix or _OPEN_CLIP)
    for name in names:
        try:
            return Path(hf_hub_download(repo, name, etag_timeout=_TIMEOUT))
        except LocalEntryNotFoundError as error:
            raise offline(model, f"{repo}/{name}", fix=fix or _OPEN_CLIP) from error
        except EntryNotFoundError:
            continue
        except Exception as error:  # the hub's client raises types of its HTTP library, which it has changed before
            raise ModelError(f"Model {model!r}: cannot download {repo}/{name}: {error}") from error
    raise ModelError(f"Model {model!r}: repository {repo} has none of {', '.join(names)}.")


def reachable() -> bool:
    """Whether the hub can be connected to, found out in seconds; its own client retries for minutes."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if urllib.request.getproxies():
        return True  # behind a proxy a direct connection proves nothing
    address = urlsplit(constants.ENDPOINT)
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        with socket.create_connection((address.hostname or "", port), timeout=_TIMEOUT):
            return True
    except OSError:
        return False


def offline(model: str, wanted: str, *, fix: str = _OPEN_CLIP) -> ModelError:
    """The error for files that are neither cached nor reachable; ``fix`` is how to name the model without a network."""
    return ModelError(
        f"Model {model!r}: {wanted} is not cached and the Hugging Face hub cannot be reached. Without a network: {fix}"
    )

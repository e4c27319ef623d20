"""Models that Hugging Face's tools have downloaded, by their names; nothing is downloaded here."""

import os
from contextlib import suppress
from pathlib import Path

from shoal.errors import UserError, printable


def hub_cache() -> Path:
    """Folder in which Hugging Face's tools keep what they download."""
    return Path(
        os.environ.get("HF_HUB_CACHE")
        or os.path.join(  # noqa: PTH118 (a variable may be empty)
            os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface", "hub"
        )
    )


def downloaded(name: str) -> Path | None:
    """Folder of a model that Hugging Face's tools have downloaded, by its name; None where it is not there."""
    if name.count("/") != 1 or ".." in name or name.startswith("/"):
        return None
    place = hub_cache() / f"models--{name.replace('/', '--')}"
    with suppress(OSError):
        revision = (place / "refs" / "main").read_text(encoding="ascii").strip()
        if (folder := place / "snapshots" / revision).is_dir() and "/" not in revision:
            return folder
    return None


def located_model(source: str) -> Path:
    """Path of a file or folder, or the folder of a downloaded model of this name (``organisation/name``).

    Raises:
        UserError: there is neither.
    """
    try:
        if Path(source).exists():
            return Path(source)
    except (OSError, ValueError):
        raise UserError(f"{printable(source)} is no name of a file") from None
    if (folder := downloaded(source)) is not None:
        return folder
    is_name = source.count("/") == 1 and not source.startswith("/")
    beside = f", and no model of this name was downloaded to {hub_cache()}" if is_name else ""
    raise UserError(f"there is no file or folder {printable(source)}{beside}")

"""Tensors on disk: safetensors files that carry a checksum of all they hold."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from shoal.errors import LabError
from shoal.lab.files import LARGEST_TENSORS, check_own, check_size, write
from shoal.models.tensor_digest import KEY, digest_of


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata to a safetensors file, with a SHA-256 of both in its header."""
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {**metadata, KEY: digest_of(on_cpu, metadata)}
    write(path, save(on_cpu, metadata=header))


def load_tensors(path: Path, like: Mapping[str, Tensor] | None = None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a file of :func:`save_tensors`.

    Args:
        path: the file.
        like: names, shapes and types that the file must have.

    Returns:
        The tensors and the metadata.

    Raises:
        LabError: the file is missing, truncated, changed since it was written, or of another shape.
    """
    check_own([path])
    check_size(path, LARGEST_TENSORS)
    try:
        with safe_open(path, "pt") as file:
            header = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, ValueError, RuntimeError, MemoryError) as error:  # also of mapping it
        raise LabError(f"{path} is damaged: {str(error) or 'it needs more memory than there is'}") from None
    expected = header.pop(KEY, None)
    if expected != digest_of(tensors, header):
        raise LabError(f"{path} is damaged: its checksum does not match its content")
    if like is not None:
        check_like(path, tensors, like)
    return tensors, header


def check_like(path: Path, tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> None:
    """Raise :class:`LabError` when tensors read from ``path`` have not the names, shapes and types of ``like``."""
    if tensors.keys() != like.keys():
        raise LabError(f"{path} holds {sorted(tensors)}, expected {sorted(like)}")
    for name, tensor in like.items():
        if tensors[name].shape != tensor.shape or tensors[name].dtype != tensor.dtype:
            raise LabError(
                f"{path} holds {name} of shape {tuple(tensors[name].shape)} and type {tensors[name].dtype}, "
                f"expected {tuple(tensor.shape)} and {tensor.dtype}"
            )

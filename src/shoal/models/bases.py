"""Bases of fine-tuning: a kept model of a lab, or a folder with a checkpoint of GPT-2's architecture.

A base is held by a hash of its family, sizes and tensors, so that neither its path nor its file's form matters, and an
adapter is never put on another base. It is read once in a process and shared by all models that are made of it.
"""

import copy
import hashlib
import json
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from shoal.errors import UserError
from shoal.models.checkpoints import CONFIG, read_gpt2
from shoal.models.families_of_bases import part_of
from shoal.models.hub import located_model
from shoal.models.tensor_digest import KEY, digest_of

if TYPE_CHECKING:
    from shoal.models.settings import ModelSettings
    from shoal.tasks.settings import Sizes

DESCRIBED = "described"  # entry of the metadata of a merged model
_HELD: dict[tuple[str, int, int], "Base"] = {}
_MOST_HELD = 4
_LARGEST_CONFIG = 2**20  # bytes
_LEAST_NUMBERS = 2**20  # up to which a setting may be larger than the number of parameters, as a length may


@dataclass(frozen=True)
class Base:
    """Base of fine-tuning.

    Attributes:
        described: its family's name, settings and sizes, as JSON in one form.
        tensors: state dict.
        key: 16 hexadecimal digits of the SHA-256 of both.
    """

    described: str
    tensors: Mapping[str, Tensor] = field(repr=False)
    key: str

    def module(self) -> nn.Module:
        """Model with the base's tensors, which it shares with every other one: they must not be changed in place."""
        if self.key not in _MODULES:
            part, sizes = part_of(self.described)
            with torch.random.fork_rng(devices=[]):
                built = part.build(sizes)
            built.load_state_dict(dict(self.tensors))
            while len(_MODULES) >= _MOST_HELD:
                del _MODULES[next(iter(_MODULES))]
            _MODULES[self.key] = built
        model = _MODULES[self.key]
        shared: list[Tensor] = [*model.parameters(), *model.buffers()]
        return copy.deepcopy(model, {id(tensor): tensor for tensor in shared})


_MODULES: dict[str, nn.Module] = {}


def read_base(path: str) -> Base:
    """Base in a file of a lab's ``models``, or in a folder with ``config.json`` and safetensors of GPT-2.

    A folder that Hugging Face's tools have downloaded is named by its model, ``organisation/name``.

    Raises:
        UserError: there is none, it is damaged, or it is of an architecture that cannot be read.
    """
    try:
        place = located_model(path)
    except UserError as error:
        raise UserError(f"base {path} cannot be read: {error}") from None
    file = place / CONFIG if place.is_dir() else place
    try:
        about = file.stat()
    except OSError as error:
        raise UserError(f"base {path} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(about.st_mode):
        raise UserError(f"base {path} cannot be read: {file} is not a regular file")
    if place.is_dir() and about.st_size > _LARGEST_CONFIG:
        raise UserError(f"base {path} cannot be read: {file} has {about.st_size:,} bytes, which are no settings")
    stamp = (str(place.absolute()), about.st_mtime_ns, about.st_size)
    if stamp not in _HELD:
        described, tensors = read_gpt2(place) if place.is_dir() else _read_kept(place)
        check_tensors(described, tensors, path)
        while len(_HELD) >= _MOST_HELD:
            del _HELD[next(iter(_HELD))]
        _HELD[stamp] = Base(described, tensors, key_of(described, tensors))
    return _HELD[stamp]


def key_of(described: str, tensors: Mapping[str, Tensor]) -> str:
    """Hash of a base's description and tensors: 16 hexadecimal digits."""
    digest = hashlib.sha256(described.encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _read_kept(path: Path) -> tuple[str, dict[str, Tensor]]:
    """Description and tensors of a kept model, by the settings of its run in its metadata; or of a merged one.

    Raises:
        UserError: it is none, or is not as it was written.
    """
    from shoal.spec import RunSpec

    try:
        with safe_open(path, "pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        if metadata.pop(KEY) != digest_of(tensors, metadata):
            raise UserError(f"base {path} is damaged: its checksum does not match its content")
        if DESCRIBED in metadata:
            return metadata[DESCRIBED], tensors
        dump = json.loads(metadata["spec"])
        if not isinstance(dump, dict):
            raise ValueError("its metadata hold no settings of a run")
        spec = RunSpec.restored(dump)
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"base {path} is damaged: {' '.join(str(error).split())}") from None
    except KeyError:
        raise UserError(f"base {path} is no kept model of a lab: its metadata have no run or no checksum") from None
    if spec.model == "finetuned":
        raise UserError(
            f"base {path} is an adapter on a base of its own, and no model: fine-tune that, or a file of shoal merge"
        )
    return describe(spec.model, spec.model_part, spec.sizes()), tensors


def check_tensors(described: str, tensors: Mapping[str, Tensor], path: str) -> None:
    """Check that tensors are finite, and those of the model that is described.

    Raises:
        UserError: names the first tensor that is missing, is not the model's, or has another shape or other values.
    """
    part, sizes = part_of(described)
    numbers = sum(tensor.numel() for tensor in tensors.values())
    # before it is built: what is described may be larger than any memory
    for name, value in {**part.as_json, **vars(sizes)}.items():
        if type(value) is int and value > max(numbers, _LEAST_NUMBERS):
            raise UserError(f"base {path} is damaged: it has {numbers:,} numbers, and {name}={value}")
    with torch.device("meta"):  # names and shapes, without the numbers
        wanted = part.build(sizes).state_dict()
    for name in [*wanted, *tensors]:
        if name not in tensors or name not in wanted:
            lack = "lacks" if name in wanted else "has, beside those of its model,"
            raise UserError(f"base {path} {lack} tensor {name}")
        if tensors[name].shape != wanted[name].shape or tensors[name].dtype != wanted[name].dtype:
            raise UserError(
                f"base {path} has tensor {name} of shape {tuple(tensors[name].shape)} and type {tensors[name].dtype}; "
                f"its model needs {tuple(wanted[name].shape)} and {wanted[name].dtype}"
            )
        if tensors[name].is_floating_point() and not tensors[name].isfinite().all():
            raise UserError(f"base {path} has values in tensor {name} that are not finite")


def describe(model: str, part: "ModelSettings", sizes: "Sizes") -> str:
    """Description of a family, its settings and its sizes, as JSON in one form.

    Defaults and what is not given are left out, so that a setting that is added later changes no base's key.
    """
    usual = part.usual()
    settings = {name: value for name, value in part.as_json.items() if value != usual.get(name)}
    given = {name: value for name, value in vars(sizes).items() if value is not None}
    every: dict[str, Any] = {"model": model, "settings": settings, "sizes": given}
    return json.dumps(every, sort_keys=True, separators=(",", ":"))


def check_key(base: Base, key: str, path: str) -> None:
    """Raise :class:`UserError` where a base is not the one of a run."""
    if base.key != key:
        raise UserError(
            f"base {path} is not the one that the run was begun with: it is {base.key}, that of the run {key}"
        )

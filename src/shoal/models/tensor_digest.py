"""Checksum of tensors and of the texts that are kept with them."""

import hashlib
import json
from collections.abc import Mapping

import torch
from torch import Tensor

KEY = "sha256"  # entry of the texts that holds the checksum of the others and of the tensors


def digest_of(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 of tensors, by name, type, shape and content, and of texts, in hexadecimal digits."""
    digest = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()

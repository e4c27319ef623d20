"""What ties ``task.json`` to its cohort: a checksum, in ``cohort.json``, of each thing that the task keeps."""

import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Any

DIGITS = 9  # of a float that count: the last bits of a sum are not the same on every machine


def keeping(kept: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """What ``cohort.json`` says of it: ``keeps``, a SHA-256 by name; nothing where nothing is kept."""
    return {"keeps": {name: _checksum(kept[name]) for name in sorted(kept)}} if kept else {}


def others_than(wanted: Mapping[str, str] | Collection[str], kept: Mapping[str, Any]) -> list[str]:
    """Names of what is missing or has another checksum than is wanted; a list of names wants none."""
    if not isinstance(wanted, Mapping):
        return [name for name in wanted if name not in kept]
    return [name for name, sha in wanted.items() if name not in kept or _checksum(kept[name]) != sha]


def _checksum(content: Any) -> str:
    """Of what JSON says, however it is laid out; floats to :data:`DIGITS` digits. Of what is too deep there is none."""
    try:
        said = json.dumps(_rounded(json.loads(json.dumps(content))), sort_keys=True)
    except RecursionError:
        return ""
    return hashlib.sha256(said.encode()).hexdigest()


def _rounded(content: Any) -> Any:
    if isinstance(content, float):
        return float(f"{content:.{DIGITS}g}")
    if isinstance(content, dict):
        return {name: _rounded(value) for name, value in content.items()}
    return [_rounded(value) for value in content] if isinstance(content, list) else content

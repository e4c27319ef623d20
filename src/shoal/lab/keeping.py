"""Checksums in ``cohort.json`` of the artifacts in ``task.json``, which tie the two to each other."""

import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Any

DIGITS = 9  # of a float that count: the last bits of a sum are not the same on every machine


def keeping(kept: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Entry ``keeps`` of ``cohort.json``, a SHA-256 of each artifact by name; no entry where none is kept."""
    return {"keeps": {name: _checksum(kept[name]) for name in sorted(kept)}} if kept else {}


def others_than(wanted: Mapping[str, str] | Collection[str], kept: Mapping[str, Any]) -> list[str]:
    """Names of artifacts that are missing or have another checksum than is wanted; a list of names wants none."""
    if not isinstance(wanted, Mapping):
        return [name for name in wanted if name not in kept]
    return [name for name, sha in wanted.items() if name not in kept or _checksum(kept[name]) != sha]


def _checksum(content: Any) -> str:
    """Checksum of JSON, however it is laid out, floats to :data:`DIGITS` digits; empty where it is nested too deep."""
    try:
        text = json.dumps(_rounded(json.loads(json.dumps(content))), sort_keys=True)
    except RecursionError:
        return ""
    return hashlib.sha256(text.encode()).hexdigest()


def _rounded(content: Any) -> Any:
    if isinstance(content, float):
        return float(f"{content:.{DIGITS}g}")
    if isinstance(content, dict):
        return {name: _rounded(value) for name, value in content.items()}
    return [_rounded(value) for value in content] if isinstance(content, list) else content

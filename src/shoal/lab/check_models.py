"""Examination of kept models: their checksums, the runs and steps that they are kept for, and their bases."""

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from shoal.errors import LabError
from shoal.lab.cohort import CohortFolder
from shoal.lab.files import names_in
from shoal.lab.finding import Finding
from shoal.lab.fitted import read_fitted
from shoal.lab.homes import BASE, at_home
from shoal.lab.mends import held, move
from shoal.lab.tensors import load_tensors

Shapes = tuple[tuple[str, tuple[int, ...]], ...]


def _bases(lab: Path, settings: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    """Findings about bases of fine-tuned runs that are not where they were: without them no adapter can be used."""
    runs: dict[str, list[str]] = {}
    for run, of_run in settings.items():
        if base := at_home(of_run, lab).get(BASE):
            runs.setdefault(str(base), []).append(run)
    for base, of_base in runs.items():
        if not Path(base).exists():
            n = f"{len(of_base)} run{'s' * (len(of_base) > 1)}"
            yield Finding(f"{base}, the base of {n} ({of_base[0]}), is not there; put it back at its place")


def _other_shapes(shapes: Mapping[Path, Shapes]) -> Iterator[Finding]:
    """Findings about models whose tensors have other names or shapes than most of their cohort, which has one shape."""
    for most, _ in Counter(shapes.values()).most_common(1):
        usual = next(path for path, of_model in shapes.items() if of_model == most)
        for path, of_model in shapes.items():
            if of_model != most:
                name = min(set(of_model) ^ set(most))[0]
                here, there = (dict(tensors).get(name, "none") for tensors in (of_model, most))
                yield Finding(f"models of one cohort have one shape: {name} is {here} in {path}, {there} in {usual}")


def check_models(folder: CohortFolder, runs: list[str]) -> Iterator[Finding]:
    """Findings about kept models, compared with their checksums and with the runs and steps that they are kept for."""
    lab, place = folder.path.parent.parent, folder.path / "models"
    settings = {member["run"]: member["spec"] for member in folder.manifest()["members"]}
    by_em = {run for run, of_run in settings.items() if of_run.get("optimizer") == "em"}
    yield from _bases(lab, settings)
    for name in names_in(place):
        if name not in runs:
            mend = partial(held, folder, partial(move, lab, place / name))
            yield Finding(f"{place / name} is not of a run of cohort {folder.id}", mend)
    shapes: dict[Path, Shapes] = {}
    for run in runs:
        for step, path in folder.models(run).items():
            try:
                if run in by_em:
                    read_fitted(folder, run, [step])
                else:
                    tensors, metadata = load_tensors(path)
                    folder.check_model(run, step, metadata)
                    shapes[path] = tuple((name, tuple(tensors[name].shape)) for name in sorted(tensors))
            except LabError as error:
                yield Finding(str(error))
    yield from _other_shapes(shapes)
    try:
        members = folder.status()["members"]
    except LabError:
        return  # told of already
    done = [run for run in runs if members[run]["state"] == "done"]
    lacking = [run for run in done if members[run]["step"] not in folder.models(run)]
    if lacking:
        more = " …" if len(lacking) > 1 else ""
        yield Finding(f"{place} lacks the last model of {len(lacking)} of {len(done)} runs ({lacking[0]}{more})")

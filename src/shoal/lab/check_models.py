"""Examination of kept models: their checksums, the runs and steps that they are kept for, and their bases."""

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
    for run in runs:
        for step, path in folder.models(run).items():
            try:
                if run in by_em:
                    read_fitted(folder, run, [step])
                else:
                    folder.check_model(run, step, load_tensors(path)[1])
            except LabError as error:
                yield Finding(str(error))
    try:
        members = folder.status()["members"]
    except LabError:
        return  # told of already
    done = [run for run in runs if members[run]["state"] == "done"]
    lacking = [run for run in done if members[run]["step"] not in folder.models(run)]
    if lacking:
        more = " …" if len(lacking) > 1 else ""
        yield Finding(f"{place} lacks the last model of {len(lacking)} of {len(done)} runs ({lacking[0]}{more})")

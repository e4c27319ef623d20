"""Current places of files of a lab that settings of its runs name: bases of adapters, and tokenizers.

A lab may be moved, and a cohort gets another folder when some of its runs are deleted.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shoal.errors import UserError

BASE, TOKENIZER = "base_model", "tokenizer_of"  # settings that hold paths of files, which may be in the same lab


def at_home(dump: Mapping[str, Any], lab: Path) -> Mapping[str, Any]:
    """Settings of a run, with the current path of each file that is not where it was and is in the lab.

    Args:
        dump: the settings.
        lab: folder of the lab now.
    """
    moved: dict[str, str] = {}
    for name in (BASE, TOKENIZER):
        parts = Path(str(dump.get(name) or "")).parts
        if "cohorts" in parts and not Path(*parts).exists():
            behind = len(parts) - parts[::-1].index("cohorts")
            several = dict.fromkeys((lab.absolute() / "cohorts", Path(*parts[:behind])))  # of this lab, or another
            key = str(dump.get("tokenizer_key") or "")
            places = [place for cohorts in several if (place := _found(cohorts, parts[behind:], key)) is not None]
            if places:
                moved[name] = str(places[0])
    return {**dump, **moved} if moved else dump


def _found(cohorts: Path, parts: tuple[str, ...], key: str) -> Path | None:
    """File of a lab's cohorts: where it was, else with its run in another cohort, or the same tokenizer in any."""
    if (place := cohorts.joinpath(*parts)).is_file():
        return place
    if len(parts) == 4 and parts[1] == "models":  # COHORT/models/RUN/STEP.safetensors
        return next(iter(sorted(cohorts.glob(f"*/models/{parts[2]}/{parts[3]}"))), None)
    if parts[1:] != ("task.json",) or not key:
        return None
    from shoal.tasks.text.tokenizers import read_tokenizer

    for file in sorted(cohorts.glob("*/task.json")):
        try:
            read_tokenizer(str(file), key)
        except UserError:
            continue
        return file
    return None


def base_run(dump: Mapping[str, Any], lab: Path) -> str | None:
    """Id of the run of the lab whose model is the base that settings name; None where there is none."""
    if not dump.get(BASE):
        return None
    path, cohorts = Path(str(at_home(dump, lab)[BASE])), (lab / "cohorts").resolve()
    place = path.resolve()
    is_model = len(place.parts) == len(cohorts.parts) + 4 and place.is_relative_to(cohorts)
    return place.parent.name if is_model and place.parts[-3] == "models" else None

"""Examination of the hypotheses of a cohort's models, and of their scores."""

from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path

from shoal.errors import AccessError, LabError
from shoal.lab.cohort import CohortFolder
from shoal.lab.files import is_there
from shoal.lab.finding import Finding
from shoal.lab.mends import held, move


def check_decodes(folder: CohortFolder, runs: Collection[str]) -> Iterator[Finding]:
    """Findings about files of hypotheses and of scores, compared with their names, checksums and runs."""
    decodes = folder.decodes
    places = [path for path in decodes.no_folders() if not path.is_symlink()]  # links are told of already
    yield from (Finding(f"{path} is damaged: it is not a folder", _away(folder, [path])) for path in places)
    for key in decodes.there():
        try:
            decode = decodes.read(key)
            if decode.run not in runs:
                raise LabError(f"{decode.path} is of run {decode.run}, which is not of cohort {folder.id}")
        except AccessError as error:
            yield Finding(str(error))
        except LabError as error:
            files = [path for end in (".json", ".txt") if is_there(path := decodes.path / f"{key}{end}")]
            yield Finding(f"{error}; to have it again, decode again", _away(folder, files))
    for name in decodes.scored():
        try:
            decodes.read_scores(name)
        except AccessError as error:
            yield Finding(str(error))
        except LabError as error:
            files = [decodes.scores_path / f"{name}.json"]
            yield Finding(f"{error}; to have it again, score again", _away(folder, files))
    for path in decodes.strays():
        what = "is no whole record of hypotheses or scores: a process was killed while it wrote, or it was put there"
        yield Finding(f"{path} {what}", is_damage=False)


def _away(folder: CohortFolder, files: Collection[Path]) -> Callable[[], str]:
    """Mend that moves files aside: the same, made again later, have the same names."""
    return partial(held, folder, lambda: "; ".join(move(folder.path.parent.parent, path) for path in files))

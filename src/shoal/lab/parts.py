"""Files of metrics of a cohort: their list, the check of their content, and the handling of one too many.

Each flush writes one, ``000000-SHA.parquet``, ``000001-…``, then a checkpoint and then a status that list all of them.
So the files that a status lists are there for good, and one more may be: of a flush that is not over, or whose process
was killed in it. Labs of earlier versions list no files; there their numbers have to be without a gap.
"""

import re
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

import polars as pl

from shoal.errors import LabError, StrayError
from shoal.lab.files import is_there, names_in, set_aside
from shoal.lab.frames import check_bytes, read_frame, schema_of, write_frame

_NAME = re.compile(r"(\d{6,})-[0-9a-f]{16}\.parquet")


class Parts:
    """The files in a folder ``metrics``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def there(self) -> list[str]:
        """Names of all that may be files of metrics, in order."""
        return [name for name in names_in(self.path) if name[:1].isdigit() and name.endswith(".parquet")]

    def write(self, number: int, frame: pl.DataFrame) -> str:
        """Write the rows of a flush, and return the name of their file."""
        return write_frame(self.path / f"{number:06d}", frame).name

    # reading

    def read(
        self, listed: Sequence[str] | None, is_finished: bool, runs: Collection[str], measured: Collection[str]
    ) -> pl.DataFrame:
        """Every row of these files.

        Args:
            listed: names that the status lists; None where it is of an earlier version, which lists none.
            is_finished: whether no other file can be on its way.
            runs: members of the cohort.
            measured: the columns of what their task measures.

        Raises:
            LabError: a file is missing or one too many, damaged, or holds rows of another cohort or rows twice.
        """
        there = self.there()
        if listed is None:
            self._check_numbers(there)
        else:
            self._check_listed(listed, there, "status.json", most=0 if is_finished else 1)
        names = there if listed is None else listed
        read = [self._read(name, measured, dropped=listed is None) for name in names]
        frames = [frame for frame in read if frame is not None]
        if not frames:
            return pl.DataFrame(schema=schema_of(measured))
        rows = pl.concat(frames, how="diagonal")
        self._check_rows(rows, runs)
        return rows

    def read_one(self, name: str, measured: Collection[str] = ()) -> pl.DataFrame:
        """The rows of one file; :class:`LabError` where it is damaged or missing, or lacks columns."""
        try:
            return read_frame(self.path / name, measured)
        except FileNotFoundError:
            raise LabError(f"{self.path / name} is missing") from None

    def _read(self, name: str, measured: Collection[str], dropped: bool) -> pl.DataFrame | None:
        """Rows of one file; None where a resumed trainer may have dropped it (``dropped``) and it is gone."""
        try:
            return self.read_one(name, measured)
        except LabError:
            if dropped and not is_there(self.path / name):  # and no link to nowhere
                return None
            raise

    def _check_listed(self, listed: Sequence[str], there: Collection[str], by: str, most: int) -> None:
        """Raise :class:`LabError` where one of ``listed`` is missing or there are others than ``most`` next ones."""
        for number, name in enumerate(listed):
            if name not in there:
                raise LabError(f"{self.path} is damaged: file {number:06d} is missing ({name})")
        for number, name in enumerate(sorted(set(there) - set(listed)), start=len(listed)):
            if number >= len(listed) + most or _number(name) != number:
                raise StrayError(
                    f"{self.path / name} is not among the files of metrics that {by} counts ({len(listed)}): if it was "
                    f"put there, move it out of the lab; if {by} is an older one, put the newest back"
                )

    def _check_numbers(self, there: Sequence[str]) -> None:
        """Raise :class:`LabError` where files that nothing lists lack a number, or have one twice."""
        known: set[int | None] = {None}
        for name in there:
            if _number(name) in known:
                raise StrayError(
                    f"{self.path / name} is one too many: another file of metrics has its number, or it has none; "
                    "move the one that was put there out of the lab"
                )
            known.add(_number(name))
        for number in range(len(there)):
            if number not in known:
                raise LabError(f"{self.path} is damaged: file {number:06d} is missing")

    def _check_rows(self, rows: pl.DataFrame, runs: Collection[str]) -> None:
        foreign = set(rows["run"].unique()) - set(runs)
        if foreign:
            raise LabError(f"{self.path} is damaged: it holds rows of run {min(foreign)}, which is not of this cohort")
        if rows.select(pl.struct("run", "step").n_unique()).item() != len(rows):
            raise LabError(f"{self.path} is damaged: it holds rows twice")

    # going on

    def check_counted(self, counted: Sequence[str] | int) -> list[str]:
        """Compare the files that a checkpoint counts with their checksums, and return the names of all of them.

        Args:
            counted: their names, or their number where it is of an earlier version, which does not name them.

        Raises:
            LabError: one is missing or damaged, or there are others than a killed flush leaves.
        """
        there = self.there()
        if isinstance(counted, int):
            self._check_numbers(there)
            if len(there) < counted:
                raise LabError(f"{self.path} is damaged: file {len(there):06d} is missing")
            counted = there[:counted]
        self._check_listed(counted, there, "checkpoint.safetensors", most=1)
        for name in counted:
            try:
                check_bytes(self.path / name)
            except FileNotFoundError:
                raise LabError(f"{self.path / name} is missing") from None
        return list(counted)

    def set_aside(self, counted: Sequence[str]) -> list[str]:
        """Move the other files out of the way, whose rows will be measured again, and return their new names."""
        more = [name for name in self.there() if name not in counted]
        return [set_aside(self.path / name, self.path.parent / "set-aside").name for name in more]

    def drop_measured_again(self, rows: pl.DataFrame) -> None:
        """Remove the files set aside of which every row has been measured again, to the same bits."""
        aside = self.path.parent / "set-aside"
        for name in names_in(aside):
            if _NAME.fullmatch(name):
                with suppress(LabError, OSError):
                    before = read_frame(aside / name)
                    if before.columns == rows.columns and before.join(rows, how="anti", on=rows.columns).is_empty():
                        (aside / name).unlink()
        with suppress(OSError):
            aside.rmdir()  # where that has emptied it


def _number(name: str) -> int | None:
    """Number of the flush that a file is of; None where no flush gives a file such a name."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None

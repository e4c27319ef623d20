"""Folder of one cohort: its path, its content, the hold on it, and the remedy where a file of it is damaged."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from shoal.errors import AccessError, LabError, StrayError
from shoal.lab.decodes import Decodes
from shoal.lab.files import check_own, is_there, names_in, read_json
from shoal.lab.locks import is_locked, locked

REPLACES = "replaces.json"  # of the rest of a cohort that a deletion makes: names the cohort


class Folder:
    """A cohort's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def decodes(self) -> Decodes:
        """Hypotheses of its models, and their scores."""
        return Decodes(self.path)

    def way_out(self) -> str:
        """Remedy where a file of the cohort is damaged, in words."""
        return f"move {self.path} out of the lab to train it anew, or see what shoal check finds"

    @contextmanager
    def with_way_out(self) -> Iterator[None]:
        """Add the remedy to the error about a file."""
        try:
            yield
        except StrayError:
            raise
        except AccessError as error:
            raise AccessError(f"{error}; who owns {self.path} can let others read it (chmod -R a+rX)") from None
        except LabError as error:
            raise LabError(f"{error}; {self.way_out()}") from None

    def _read(self, name: str, shape: type[BaseModel]) -> dict[str, Any]:
        self.check_there()
        with self.with_way_out():
            return dict(read_json(self.path / name, shape))

    def check_there(self) -> None:
        """Raise :class:`LabError` where the folder has been deleted or moved away."""
        if not is_there(self.path):
            raise LabError(
                f"cohort {self.id} is not in the lab any more: runs of it were deleted, or its folder was moved; what "
                "is left of it the same command finds again"
            )

    def contents(self) -> list[str]:
        """Names in the folder, without locks and half-written files.

        ``task.json`` alone is half written too: whoever made the folder was killed before ``cohort.json``, which is
        written next.
        """
        names = [name for name in names_in(self.path) if name != "lock" and not name.startswith(".")]
        return [] if names == ["task.json"] else names

    def check_links(self) -> None:
        """Raise :class:`LabError` where the folder or one in it is a link."""
        models = self.path / "models"
        with self.with_way_out():
            inner = ("metrics", "set-aside", "decodes", "scores")
            check_own([self.path, *(self.path / name for name in inner), models])
            check_own(models / name for name in names_in(models))

    # one trainer at a time

    def clean(self) -> None:
        """Remove the half-written files of a process that was killed. The caller holds the cohort."""
        for path in [*self.path.rglob(".*.tmp"), self.path / REPLACES]:
            path.unlink(missing_ok=True)

    @contextmanager
    def training(self, wait: float = 10.0) -> Iterator[None]:
        """Hold the cohort for training; the hold ends with the process, however it ends.

        Raises:
            LabError: another process still trains it after ``wait`` seconds, a folder of the cohort is a link, or the
                cohort is no longer there.
        """
        self.check_links()
        self.check_there()
        busy = f"cohort {self.id} is being trained by another process; once that has ended, the same command goes on"
        with locked(self.path / "lock", wait, busy):
            yield

    def is_training(self) -> bool:
        """Return True if a process is training it now."""
        return is_locked(self.path / "lock")

    @contextmanager
    def adding(self) -> Iterator[None]:
        """Hold the lab while a file is added without holding the cohort, such as a certificate or hypotheses.

        Raises:
            LabError: the cohort is no longer there, and a file written now would have none.
        """
        lab = self.path.parent.parent
        with locked(lab / "lock", 30.0, f"lab {lab} is held by another process"):
            self.check_there()
            yield

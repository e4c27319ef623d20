"""The folder of one cohort as a folder: where it is, what is in it, and what to say when a file of it is damaged."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from shoal.errors import AccessError, LabError, StrayError
from shoal.lab.decodes import Decodes
from shoal.lab.files import check_own, names_in, read_json


class Folder:
    """A cohort's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def decodes(self) -> Decodes:
        """What its models wrote, and what that scores."""
        return Decodes(self.path)

    def way_out(self) -> str:
        """What to do when a file of the cohort is damaged."""
        return f"move {self.path} out of the lab to train it anew, or see what shoal check finds"

    @contextmanager
    def with_way_out(self) -> Iterator[None]:
        """Say besides what is wrong with a file what to do."""
        try:
            yield
        except StrayError:
            raise
        except AccessError as error:
            raise AccessError(f"{error}; who owns {self.path} can let others read it (chmod -R a+rX)") from None
        except LabError as error:
            raise LabError(f"{error}; {self.way_out()}") from None

    def _read(self, name: str, shape: type[BaseModel]) -> dict[str, Any]:
        with self.with_way_out():
            return dict(read_json(self.path / name, shape))

    def contents(self) -> list[str]:
        """What is in the folder but locks and what is half written.

        ``task.json`` alone is half written too: whoever made the folder was killed before ``cohort.json``, which is
        written next.
        """
        names = [name for name in names_in(self.path) if name != "lock" and not name.startswith(".")]
        return [] if names == ["task.json"] else names

    def check_links(self) -> None:
        """Raise :class:`LabError` where the folder or one in it is a link."""
        models = self.path / "models"
        with self.with_way_out():
            own = ("metrics", "set-aside", "decodes", "scores")
            check_own([self.path, *(self.path / name for name in own), models])
            check_own(models / name for name in names_in(models))

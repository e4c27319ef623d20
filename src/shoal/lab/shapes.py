"""What the JSON files of a lab must hold: the keys that are read of them, and the types of their values."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from shoal.spec import FAMILIES, OPTIMIZERS

Id = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]  # it becomes part of paths


class Shape(BaseModel):
    """Checks and is thrown away: keys beside its own may be there, and those with a default may be missing."""

    model_config = ConfigDict(strict=True)


class Settings(Shape):
    """What every record of a run's settings says; settings that are younger than the record are not in it."""

    model: Literal[tuple(FAMILIES)]  # type: ignore[valid-type]  # their names stand in one place
    optimizer: Literal[tuple(OPTIMIZERS)]  # type: ignore[valid-type]
    operation_orders: list[int]
    # what the run's id does not depend on
    seed: int
    eval_batch_size: int | None = None
    save_statistic_step: int | None = None


class Member(Shape):
    """A run of a cohort."""

    run: Id
    spec: Settings


class Manifest(Shape):
    """``cohort.json``."""

    threads: Annotated[int, Field(ge=1, le=1024)]  # more than some systems start in a process
    engine: str = "plain"
    metrics: list[str]
    members: Annotated[list[Member], Field(min_length=1)]


class Stand(Shape):
    """Where a run stands."""

    state: Literal["waiting", "running", "done", "diverged"]
    step: int


class Session(Shape):
    """With what a cohort was trained for a while."""

    shoal: str
    git_commit: str | None
    torch: str
    python: str
    processor: str
    device: str
    precision: str
    threads: int
    engine: str = "plain"
    seconds: float = 0.0


class Status(Shape):
    """``status.json``."""

    members: Annotated[dict[Id, Stand], Field(min_length=1)]
    sessions: list[Session]
    metrics: list[str] | None = None  # earlier versions did not list their files


class Deviation(Shape):
    """Of one run trained alone from the same run in its stack."""

    loss: float
    parameters: float


class Certificate(Shape):
    """``certificate.json``."""

    steps: int
    members: int
    alone: dict[Id, Deviation]
    record: float | None


class StudyNote(Shape):
    """``studies/NAME/FORM.json``."""

    runs: list[Id]
    quick: bool
    seeds: int | None = None
    settings: dict[str, list[Any]] = {}
    thresholds: list[float] = []
    stay: Annotated[int, Field(ge=1)] = 1

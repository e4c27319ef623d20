"""Shapes of a lab's JSON files: the keys that are read of them, and the types of their values."""

import math
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Json, create_model

from shoal.lab.names import check_label, check_note
from shoal.registry import USUAL
from shoal.spec.fields import LARGEST
from shoal.spec.known import known_settings

Id = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]  # it becomes part of paths
Count = Annotated[int, Field(ge=0, le=LARGEST)]
Number = Annotated[int, Field(ge=1, le=2**53)]  # of things; a float has it exactly
Checksum = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Engine = Literal["compiled", "prefixes", "windows", "plain"]  # shoal.fast.engine.ENGINES, without its torch
Products = Literal["own", "torch"]  # shoal.fast.multiplication.PRODUCTS


# of a part: a word, or the place of one from outside of shoal
Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*(:[A-Za-z_][A-Za-z0-9_]*)?$", max_length=300)]


def _in_64_bits(value: Any) -> Any:
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("integers have at most 64 bits")
    return value


def _number(value: float) -> float:
    if math.isnan(value):
        raise ValueError("it is not a number")
    return value


# what a cell of a table can hold; infinite is a clip that never acts
_Int = Annotated[int, BeforeValidator(_in_64_bits)]
_Float = Annotated[float, BeforeValidator(_in_64_bits), AfterValidator(_number)]
_Orders = list[Annotated[int, Field(ge=0, le=99)]]
_Words = Annotated[list[Annotated[str, Field(max_length=4096)]], Field(max_length=1000)]
_Value = None | bool | _Int | _Float | str | _Orders | _Words
_KINDS: dict[Any, Any] = {bool: bool, int: _Int, float: _Float, str: str}
_LISTS: dict[Any, Any] = {int: _Orders, str: _Words}


class Shape(BaseModel):
    """Shape of a JSON object: keys beside its own may be there, and those with a default may be missing."""

    model_config = ConfigDict(strict=True, defer_build=True)  # most commands need few of them


class _Named(Shape):
    """Settings that every record of a run has, and values of any other setting that there was or will be."""

    model_config = ConfigDict(strict=True, extra="allow", defer_build=True)
    __pydantic_extra__: dict[str, _Value]

    task: Name = USUAL["task"]  # there was no other at first
    model: Name
    optimizer: Name
    # what the run's id does not depend on
    seed: _Int
    eval_batch_size: _Int | None = None
    save_statistic_step: _Int | None = None


def _kind_of(setting: str, part: type[BaseModel]) -> Any:
    """Type of a setting's values, whatever it allows of them: a column of a table has one type."""
    annotation = part.model_fields[setting].annotation
    if get_origin(annotation) is tuple:
        return _LISTS[get_args(annotation)[0]] | None
    (kind,) = {*(get_args(annotation) or [annotation])} - {NoneType}
    return _KINDS[kind] | None


# Settings that are younger than a record, or of other parts than its own, are not in it.
_MORE: dict[str, Any] = {
    name: (_kind_of(name, parts[0]), None)
    for name, parts in known_settings().items()
    if name not in _Named.model_fields
}
Settings = create_model("Settings", __base__=_Named, **_MORE)


class Member(Shape):
    """A run of a cohort."""

    run: Id
    spec: Settings


class Source(Shape):
    """Source of a part from outside of shoal when the cohort was begun."""

    package: str
    version: str | None = None
    source: str


_Short = Annotated[str, Field(max_length=300)]


class Measured(Shape):
    """A measure of a task from outside of shoal, as :class:`shoal.measures.Measure`."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=100)]  # part of columns and file names
    symbol: _Short
    words: _Short
    unit: _Short = ""
    higher_is_better: bool = False
    bounds: Annotated[list[_Float], Field(min_length=2, max_length=2)] | None = None
    is_log: bool = False
    thresholds: list[_Float] = []
    about: _Short = ""


class Meant(Shape):
    """Definition of generalised by a task from outside of shoal: a measure and its threshold."""

    measure: str
    threshold: _Float


class Said(Shape):
    """Measures of a task from outside of shoal."""

    recorded: Annotated[list[Measured], Field(min_length=1, max_length=100)]
    generalised: Meant | None = None
    things: _Short = "examples"


class BestNGram(Shape):
    """Cross-entropy of the best n-gram on the validation examples of a text."""

    order: Number
    orders: Number
    nats_per_token: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Kept(Shape):
    """``task.json``: any JSON by name, and under these names the values that are shown."""

    counts: dict[_Short, Annotated[int, Field(ge=0, le=2**53)]] = {}
    ngram: BestNGram | None = None


class Manifest(Shape):
    """``cohort.json``."""

    threads: Annotated[int, Field(ge=1, le=1024)]  # more than some systems start in a process
    engine: Engine = "plain"
    products: Products = "torch"  # those of earlier versions
    metrics: list[str]
    parts: dict[Literal["task", "model", "optimizer"], Source] = {}
    keeps: dict[str, Checksum] | list[str] = {}  # an earlier version listed the names alone
    measures: Said | None = None
    members: Annotated[list[Member], Field(min_length=1)]


class Stand(Shape):
    """State and step of a run."""

    state: Literal["waiting", "running", "done", "diverged"]
    step: Count


class Session(Shape):
    """Session in which a cohort was trained: versions, machine, threads and engine."""

    shoal: str
    git_commit: str | None
    torch: str
    python: str
    processor: str
    device: str
    precision: str
    threads: Count
    engine: Engine = "plain"
    products: Products = "torch"
    seconds: Seconds = 0.0


class Status(Shape):
    """``status.json``."""

    members: Annotated[dict[Id, Stand], Field(min_length=1)]
    sessions: list[Session]
    metrics: list[str] | None = None  # earlier versions did not list their files


class Ending(Stand):
    """State and step at which a run ended."""

    state: Literal["done", "diverged"]


class Where(Shape):
    """Members whose state a checkpoint holds; earlier versions parked nobody and did not keep the last accuracies."""

    members: list[Id]
    parked: list[Id] = []
    finished: dict[Id, Ending]
    generalised: list[Id]
    accuracies: dict[Literal["train", "valid"], tuple[float, float, float]] = {}
    places: Annotated[int, Field(ge=1, le=LARGEST)]


class Flush(Shape):
    """The metadata of ``checkpoint.safetensors``; earlier versions counted their files of metrics."""

    cohort: str
    where: Json[Where]
    metrics: Json[list[str]] | None = None
    parts: Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]


class Deviation(Shape):
    """Deviation of a run trained alone from the same run in its stack."""

    loss: float
    parameters: float


class Certificate(Shape):
    """``certificate.json``."""

    steps: Count
    members: Count
    alone: dict[Id, Deviation]
    record: float | None


class FitProblem(Shape):
    """Problem of a fit: its kind, and words for it."""

    kind: _Short
    text: Annotated[str, Field(max_length=4096)]


class FitNote(Shape):
    """Entry ``fit`` in the metadata of a fitted model; a log-likelihood may be -inf."""

    log_likelihood: float
    valid_log_likelihood: float
    valid_problem: str = ""
    observations: float | None = None  # not in labs of earlier versions
    updates: Count
    converged: bool
    problems: list[FitProblem]


class StudyNote(Shape):
    """``studies/NAME/FORM.json``."""

    runs: list[Id]
    quick: bool
    seeds: Annotated[int, Field(ge=1, le=LARGEST)] | None = None
    settings: dict[str, list[Any]] = {}
    thresholds: list[float] = []
    stay: Annotated[int, Field(ge=1)] = 1


class DecodeNote(Shape):
    """``decodes/NAME-SHA.json``."""

    run: Id
    step: Count
    name: _Short
    settings: dict[_Short, _Value]
    source: Checksum
    lines: Number
    newlines: dict[Annotated[str, Field(pattern=r"^[0-9]{1,15}$")], list[Annotated[int, Field(ge=0, le=2**53)]]]
    hypotheses: Checksum
    versions: dict[_Short, _Short]


class Scored(Shape):
    """A score and how it was computed: sacreBLEU's signature, empty of what needs none."""

    score: Annotated[float, Field(allow_inf_nan=False)]
    signature: _Short


class ScoreNote(Shape):
    """``scores/NAME-SHA-SHA.json``."""

    decode: _Short
    hypotheses: Checksum
    references: Annotated[list[Checksum], Field(min_length=1, max_length=100)]
    scores: Annotated[dict[_Short, Scored], Field(min_length=1)]
    versions: dict[_Short, _Short]


# labels, which may be anyone's

_Called = Annotated[str, AfterValidator(lambda text: check_label(text, "name"))]
_Tags = Annotated[list[Annotated[str, AfterValidator(lambda text: check_label(text, "tag"))]], Field(max_length=1000)]
_Note = Annotated[str, AfterValidator(check_note)]


class RunLabel(Shape):
    """``labels/runs/RUN.json``."""

    name: _Called | None = None
    tags: _Tags = []
    note: _Note = ""


class GroupLabel(Shape):
    """``labels/groups/SHA.json``."""

    name: _Called
    runs: list[Id]
    tags: _Tags = []
    note: _Note = ""


class Deletion(Shape):
    """Time at which a run was deleted, or was to be, and its name."""

    at: _Short
    name: str | None = None


class Deleted(Shape):
    """``deleted.json``."""

    runs: dict[Id, Deletion]


class Replaces(Shape):
    """``replaces.json`` of a cohort that a deletion makes: the cohort that it is the rest of."""

    cohort: Annotated[str, Field(pattern=r"^[^/\x00]{1,255}$")]

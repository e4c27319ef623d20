"""Settings of the task of sequences, which hidden Markov models are fitted to."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from shoal.errors import UserError
from shoal.measures import Measure, Measures
from shoal.spec.fields import SEED, choice, setting
from shoal.spec.training import Training
from shoal.tasks.settings import Counts, Sizes, TaskSettings
from shoal.tasks.text.settings import Paths

if TYPE_CHECKING:
    from shoal.spec.run import RunSpec
    from shoal.tasks.sequences.data import Observations

BLOCK = 1000  # default length of the blocks of a text
VALUES = ("symbols", "numbers")
ALPHABETS = ("letters", "chars")
KINDS = {"symbols": "categorical", "numbers": "gaussian"}  # emissions of a model, by the values
MEASURES = Measures((Measure("loss", "L", "loss", "nats per observation"),), things="observations")
UNREAD = ("train_batch_size", "patience", "keep_best")  # settings of training by batches
_KEY = "the content of the sequences, as the first digits of its SHA-256; computed where they are given"


class SequencesSettings(TaskSettings):
    """Settings of sequences of observations, whose likelihood a hidden Markov model is to make largest.

    They are the letters of a text, the sequences of files, or drawn from a random model. The identity of a run depends
    on their content (``data_key``), not on a path.
    """

    name: ClassVar[str] = "sequences"
    label: ClassVar[str] = "sequences"
    reads_files: ClassVar[bool] = True
    offers: ClassVar[tuple[str, ...]] = ("observations",)
    usual_model: ClassVar[str] = "hmm"
    suggests: ClassVar[Mapping[str, Any]] = {"n_steps": 1000, "eval_first": 20, "eval_period": 10}

    text: Paths = setting(
        (), "text, read as its letters", "a file, a folder, or several joined by commas", operational=True
    )
    observations: Paths = setting(
        (),
        "sequences: one a line, spaces between observations and ? for a missing one; or a .csv with column sequence",
        "a file, or several joined by commas",
        operational=True,
    )
    data_key: str | None = setting(None, _KEY, "16 hexadecimal digits", derived=True, pattern="^[0-9a-f]{16}$")
    values: str = choice("symbols", "observations of sequences", VALUES)
    alphabet: str = choice("letters", "symbols of a text; letters: a to z in lower case, and space", ALPHABETS)
    symbols: int | None = setting(
        None, "number of symbols that there may be; those of the data when not given", "an integer of at least 1", ge=1
    )
    block_length: int | None = setting(
        None,
        f"cut sequences into blocks of so many observations, {BLOCK} of a text when not given",
        "an integer of at least 1",
        ge=1,
    )
    valid_share: float = setting(
        0.1, "share of the sequences, evenly spread, that validates", "above 0 and below 1", gt=0, lt=1
    )
    bootstrap_seed: int = setting(
        0, "seed of a resample of the training sequences; 0: the sequences as they are", member=True, **SEED
    )
    drawn_states: int | None = setting(
        None, "draw sequences from a random model of so many states", "an integer in [1, 100]", ge=1, le=100
    )
    drawn_sequences: int = setting(100, "number of drawn sequences", "an integer in [2, 1000000]", ge=2, le=10**6)
    drawn_length: int = setting(100, "length of drawn sequences", "an integer in [1, 1000000]", ge=1, le=10**6)
    drawn_size: int = setting(8, "symbols, or dimensions, of drawn observations", "an integer of at least 1", ge=1)
    data_seed: int = setting(0, "seed of drawn sequences", **SEED)
    num_symbols: int | None = setting(None, "number of symbols; 0 of numbers", "an integer", derived=True, ge=0)
    num_dimensions: int | None = setting(None, "dimensions of numbers; 0 of symbols", "an integer", derived=True, ge=0)
    num_observations: int | None = setting(None, "observations that train", "an integer", derived=True, ge=1)

    def fill(self) -> None:
        """Set the length of blocks of a text."""
        if self.text and self.block_length is None:
            object.__setattr__(self, "block_length", BLOCK)

    @classmethod
    def suggest(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """See :class:`TaskSettings`: numbers go with Gaussian emissions, and Gaussian emissions with numbers."""
        agreeing: dict[str, Any] = {}
        if given.get("values") == "numbers":
            agreeing["emissions"] = "gaussian"
        elif given.get("emissions") == "gaussian":
            agreeing["values"] = "numbers"
        return {**cls.suggests, **agreeing}

    def derived(self) -> list[str]:
        """See :class:`Part`: all that the data say."""
        is_there = bool(self.paths) or self.drawn_states is not None
        return ["data_key", "num_symbols", "num_dimensions", "num_observations"] if is_there else []

    @property
    def paths(self) -> tuple[str, ...]:
        """Files of the sequences; none where they are drawn."""
        return self.text or self.observations

    def check(self) -> None:
        """See :class:`Part`: there is one source, whose content is read unless it is on record."""
        sources = {"text": self.text, "observations": self.observations, "drawn_states": self.drawn_states}
        given = [name for name, value in sources.items() if value]
        if len(given) > 1:
            raise UserError(f"sequences have one source, got {' and '.join(given)}")
        if not given and self.data_key is None:
            raise UserError("task sequences needs --text FILE, --observations FILE or --drawn-states K")
        if self.text and self.values == "numbers":
            raise UserError("values=numbers does not apply to a text, whose letters are symbols")
        if self.symbols is not None and self.values == "numbers":
            raise UserError(f"symbols={self.symbols} does not apply to values=numbers; it applies to symbols")
        total = self.drawn_sequences * self.drawn_length * self.drawn_size
        if self.drawn_states is not None and total > 10**9:
            raise UserError(f"drawn sequences have {total:,} numbers; at most {10**9:,} are drawn")
        if self.data_key is None:
            self._derive()

    def check_new(self) -> None:
        """See :class:`Part`: the content must be the one that the key names."""
        super().check_new()
        if (self.paths or self.drawn_states is not None) and "data_key" in self.model_fields_set:
            self.data()

    def _derive(self) -> None:
        from shoal.tasks.sequences.data import load

        data = load(self, None)
        derived = {"data_key": data.key, "num_observations": data.n_trained, "num_symbols": len(data.symbols)}
        derived["num_dimensions"] = 0 if data.symbols else data.values.shape[1]
        for name, value in derived.items():
            if getattr(self, name) not in (None, value):
                raise UserError(f"{name} must be that of the data, {value}, or left out, got {getattr(self, name)}")
            object.__setattr__(self, name, value)

    def measures(self) -> Measures:
        """See :class:`TaskSettings`: there is no criterion of having generalised."""
        return MEASURES

    def sizes(self) -> Sizes:
        """See :class:`TaskSettings`: symbols or dimensions in place of tokens; sequences may be of any length."""
        return Sizes(self.num_symbols or self.num_dimensions or 1, 1)

    def counts(self) -> Counts:
        """See :class:`TaskSettings`, in observations."""
        data = self.data()
        return Counts(data.n_trained, int(data.counts.sum()))

    def data(self) -> "Observations":
        """Sequences of the run.

        Raises:
            UserError: they cannot be read, or are not those of the run.
        """
        from shoal.tasks.sequences.data import load

        if not self.paths and self.drawn_states is None:
            raise UserError(f"the sequences {self.data_key} of this run were not named: --text or --observations FILE")
        return load(self, self.data_key)

    def kept(self) -> Mapping[str, Any]:
        """See :class:`TaskSettings`: names of the symbols, and the amount of data."""
        data = self.data()
        numbers = {"sequences": len(data.lengths), "observations": int(data.counts.sum()), "trained": data.n_trained}
        return {"data_key": data.key, "symbols": list(data.symbols), "counts": numbers}

    @classmethod
    def units(cls, kept: Mapping[str, Any]) -> Mapping[str, float]:
        """See :class:`TaskSettings`: bits per symbol."""
        return {"bits/symbol": 1 / math.log(2)} if kept.get("symbols") else {}

    def place(self) -> tuple[str, Mapping[str, Any]] | None:
        """See :class:`TaskSettings`."""
        if not self.paths or not self.data_key:
            return None
        return self.data_key, {"text" if self.text else "observations": list(self.paths)}

    def check_model(self, spec: "RunSpec") -> None:
        """See :class:`TaskSettings`: emissions that the values have, and enough observations for the states."""
        if spec.emissions != KINDS[self.values]:
            raise UserError(
                f"emissions={spec.emissions} does not apply to values={self.values}; {KINDS[self.values]} does"
            )
        if self.num_observations is not None and self.num_observations < spec.num_states:
            raise UserError(
                f"num_states={spec.num_states} is more than the {self.num_observations} training observations: there "
                "must be at least as many observations as states"
            )
        for name in UNREAD:
            if getattr(spec, name) != Training.model_fields[name].default:
                raise UserError(f"{name}={getattr(spec, name)} does not apply to model {spec.model!r}, fitted by EM")
        spec.rule.check_emissions(spec.emissions)  # type: ignore[attr-defined]  # of EM

    def sizes_named(self) -> list[str]:
        """See :class:`TaskSettings`."""
        return ["num_observations"]

"""Settings of tasks of words whose tables of embeddings can begin with pretrained rows, and be frozen."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator

from shoal.errors import OtherDataError, UserError
from shoal.spec.fields import choice, set_default, setting
from shoal.tasks.settings import TaskSettings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from shoal.embeddings.coverage import Counts, Covered
    from shoal.spec.run import RunSpec

ROWS = ("pretrained", "permuted", "random", "word2vec", "initial")
FROM_FILE = ROWS[:3]
UNDECODABLE = ("refuse", "skip")
MISSING = ("normal", "zero", "mean", "subwords")
SIDES = ("source", "target", "both")
_ABOUT = {
    "pretrained": "the file's",
    "permuted": "the same in another order",
    "random": "normal with the deviation of the file's",
    "word2vec": "trained on the training split",
    "initial": "those that the model draws",
}


def _source(value: Any) -> Any:
    """Absolute path of a file or folder that is there, or a name as it is: a run may be resumed from another folder."""
    if not isinstance(value, str | Path):
        raise ValueError
    try:
        return str(Path(value).absolute()) if str(value) and Path(value).exists() else str(value)
    except (OSError, ValueError):
        return str(value)


Source = Annotated[str, BeforeValidator(_source)]
FORMS = "a file of word2vec or GloVe, a folder with tokenizer.json and safetensors, a downloaded model or a package"


@dataclass(frozen=True, eq=False)
class Side:
    """Words of one side of a task, in the order of its vocabulary.

    Attributes:
        types: the types behind the special tokens; one that begins with a space stands behind white space.
        first: number of special tokens.
        counts: occurrences of each token in a split, ``(V,)`` int64, by the split's name.
        sentences: function that gives the words of each training sentence, those that are types alone.
    """

    types: Sequence[str]
    first: int
    counts: "Mapping[str, Counts]"
    sentences: Callable[[], list[list[str]]]


class PretrainedSettings(TaskSettings):
    """Settings of a task with one table of words; ``embeddings_key`` identifies the vectors, not their path."""

    embeddings: Source = setting("", "pretrained rows of words", FORMS, operational=True)
    embeddings_key: str = setting(
        "",
        "the content of the embeddings, as the first digits of a SHA-256; computed where they are given",
        "16 hexadecimal digits",
        derived=True,
        pattern="^([0-9a-f]{16})?$",
    )
    embeddings_width: int = setting(0, "values of a pretrained row", "an integer of at least 1", derived=True, ge=0)
    embedding_rows: str | None = choice(
        None,
        f"rows that embeddings begin with (pretrained where a file is named); "
        f"{'; '.join(f'{name}, {about}' for name, about in _ABOUT.items())}",
        ROWS,
        member=True,
    )
    embedding_missing: str = choice(
        "normal",
        "row of a word that the file lacks: normal with the deviation of the rows that it has, zero, their mean, or "
        "the mean of the word's pieces (of a transformer)",
        MISSING,
        member=True,
    )
    embedding_undecodable: str = choice("refuse", "words of the file that are not UTF-8", UNDECODABLE)
    freeze_embeddings: bool = setting(
        False, "embeddings, special tokens and missing words included, do not train", "true or false"
    )
    embedding_projection: bool = setting(
        False, "map rows to the model's width by a matrix that is learned, as where widths differ", "true or false"
    )

    def side(self, name: str) -> Side:
        """Words of a side.

        Raises:
            UserError: the data are missing, or are not those of the run.
        """
        raise NotImplementedError

    def embedded_sides(self) -> dict[str, str]:
        """File of each side whose embeddings the settings are about; empty where none was named."""
        return {"source": self.embeddings}

    @property
    def has_embeddings(self) -> bool:
        """True where a file of embeddings was named, now or when the run began."""
        return bool(self.embeddings_key or any(self.embedded_sides().values()))

    def fill_embeddings(self) -> None:
        """Set the rows to those of the file where one was named."""
        if self.has_embeddings:
            set_default(self, "embedding_rows", "pretrained")

    def derived_of_embeddings(self) -> list[str]:
        """Names of settings that are derived from the file."""
        return ["embeddings_key", "embeddings_width"] if any(self.embedded_sides().values()) else []

    def check_embeddings(self, tokenizer: str) -> None:
        """Raise :class:`UserError` for settings that do not go together; read the file where its key is not known."""
        if not self.has_embeddings:
            usual = {"embedding_projection": False, "embedding_undecodable": "refuse"}
            if self.embedding_rows in FROM_FILE:
                usual["embedding_rows"] = ""
            if self.embedding_rows != "word2vec":
                usual["embedding_missing"] = "normal"
            given = {name: value for name, known in usual.items() if (value := getattr(self, name)) != known}
            for name, value in given.items():
                raise UserError(f"{name}={value} needs embeddings: --embeddings FILE (embeddings=… from Python)")
        needs_words = self.has_embeddings or self.embedding_rows == "word2vec"
        if needs_words and tokenizer != "words":
            what = "embeddings" if self.has_embeddings else "embedding_rows=word2vec"
            raise UserError(f"{what} need tokenizer=words, whose tokens are words, got tokenizer={tokenizer}")
        if self.has_embeddings and not self.embeddings_key:
            self._find_rows()

    def check_new_embeddings(self) -> None:
        """Raise :class:`UserError` where a given key is not that of the named file, or gensim is missing."""
        if self.embedding_rows == "word2vec":
            from shoal.embeddings.word2vec import check_word2vec

            check_word2vec()
        if any(self.embedded_sides().values()) and "embeddings_key" in self.model_fields_set:
            asked = self.embeddings_key
            self._find_rows()
            if self.embeddings_key != asked:
                raise UserError(
                    f"embeddings_key must be that of the embeddings, {self.embeddings_key}, or left out, got {asked}"
                )

    def _find_rows(self) -> None:
        each = {name: self._read(name, path) for name, path in self.embedded_sides().items()}
        widths = {one.vectors.width for one in each.values()}
        if len(widths) > 1:
            raise UserError(
                f"embeddings of both sides must have one width, got {' and '.join(map(str, sorted(widths)))}"
            )
        for name, one in each.items():
            self._check_rows(name, one)
        object.__setattr__(self, "embeddings_key", _key_of(each))
        object.__setattr__(self, "embeddings_width", widths.pop())

    def _check_rows(self, name: str, one: "Covered") -> None:
        if (n := int(one.matched.sum())) < 2:
            raise UserError(
                f"{self.embedded_sides()[name]} has rows for {n} of the {len(one.rules):,} types of the {name}; "
                "embeddings need two at least"
            )
        if self.embedding_missing == "subwords" and not one.vectors.has_pieces:
            raise UserError(
                f"embedding_missing=subwords needs the pieces of a transformer's tokenizer, which {one.vectors.form} "
                "does not have; normal zero mean apply"
            )

    def _read(self, name: str, path: str) -> "Covered":
        from shoal.embeddings.coverage import covered, forms_of
        from shoal.embeddings.reading import read_vectors

        side = self.side(name)
        forms = {form for word in side.types for form in forms_of(word)}
        return covered(side.types, side.first, read_vectors(path, forms, self.embedding_undecodable))

    def covered_sides(self) -> "dict[str, Covered]":
        """Rows of the words of each side.

        Raises:
            UserError: the file cannot be read, or has another content than when the run began.
        """
        each = {name: self._read(name, path) for name, path in self.embedded_sides().items()}
        if _key_of(each) != self.embeddings_key:
            raise OtherDataError(
                f"the embeddings {', '.join(dict.fromkeys(self.embedded_sides().values()))} are not those that the run "
                f"began with: their content is {_key_of(each)}, that of the run {self.embeddings_key}",
                "name those of the run with --embeddings, or train anew",
            )
        return each

    def kept_embeddings(self) -> dict[str, Any]:
        """Record of the embeddings for :meth:`TaskSettings.kept`: their form, and the coverage of each side."""
        if not self.has_embeddings:
            return {}
        each = self.covered_sides()
        sides = {
            name: {
                "form": one.vectors.form,
                "words": one.vectors.total,
                "notes": one.vectors.notes(),
                "deviation": round(one.deviation, 9),
                "splits": one.counted(self.side(name).counts),
            }
            for name, one in each.items()
        }
        return {"embeddings": {"key": self.embeddings_key, "width": self.embeddings_width, "sides": sides}}

    @classmethod
    def before(cls, kept: Mapping[str, Any]) -> list[str]:
        """See :class:`TaskSettings`: coverage of types and tokens."""
        record = kept.get("embeddings")
        if not record:
            return []
        from shoal.embeddings.coverage import lines_of

        out = []
        for name, side in record["sides"].items():
            about = f"; {side['form']}, {side['words']:,} words of {record['width']}, deviation {side['deviation']:.3g}"
            out += lines_of(name, side["splits"], about)
            out += [f"embeddings of {name}: {note}" for note in side["notes"]]
        return out

    def place_embeddings(self, place: tuple[str, Mapping[str, Any]] | None) -> tuple[str, Mapping[str, Any]] | None:
        """Identity and paths of a task's data with those of the embeddings, see :meth:`TaskSettings.place`."""
        if place is None or not any(self.embedded_sides().values()):
            return place
        paths = {name: value for name in ("embeddings", "target_embeddings") if (value := getattr(self, name, ""))}
        return f"{place[0]} {self.embeddings_key}", {**place[1], **paths}

    def table_widths(self) -> dict[str, int | None]:
        """Width of the table of each side whose rows are mapped to the model's; None for others."""
        width = self.embeddings_width if self.embedding_projection else None
        return {"source": None, "target": None, **dict.fromkeys(self.embedded_sides(), width)}

    def check_model(self, spec: "RunSpec") -> None:
        """Raise :class:`UserError` where the model has no such table, or one of another width."""
        part, name = spec.model_part, next((n for n in _ASKED if getattr(self, n)), None)
        if name is None:
            return
        tables, changed = part.tables(), f"{name}={getattr(self, name)}"
        if lacking := [side for side in self.embedded_sides() if side not in tables]:
            if not tables:
                raise UserError(f"{changed} does not apply to model {spec.model!r}, which does not name its tables")
            raise UserError(
                f"{changed} does not apply to the {lacking[0]} of model {spec.model!r}, which has a table of "
                f"{' and '.join(tables)} alone"
            )
        tied = [side for side in part.tied_tables() if side in self.embedded_sides()]
        for other in ("freeze_embeddings", "embedding_projection"):
            if tied and getattr(self, other):
                raise UserError(
                    f"{other}=true does not apply to the {tied[0]} of model {spec.model!r}, whose table is its "
                    "classifier, too; it applies where embeddings are not tied"
                )
        if self.embedding_projection and not part.projects:
            raise UserError(
                f"embedding_projection=true does not apply to model {spec.model!r}: give it the file's width"
            )
        width = spec.get("embedding_size")
        if self.embedding_rows in FROM_FILE and not self.embedding_projection and width != self.embeddings_width:
            remedy = " or --embedding-projection true" if part.projects else ""
            raise UserError(
                f"embeddings of width {self.embeddings_width} do not fit embedding_size={width}: "
                f"--embedding-size {self.embeddings_width}{remedy}"
            )

    def frozen_tables(self, spec: "RunSpec") -> list[str]:
        """See :class:`TaskSettings`."""
        tables = spec.model_part.tables()
        return [tables[side] for side in self.embedded_sides()] if self.freeze_embeddings else []

    def initial_tables(self, spec: "RunSpec", model: "nn.Module") -> "dict[str, Tensor]":
        """See :class:`TaskSettings`."""
        from shoal.embeddings.coverage import covered
        from shoal.embeddings.tables import table_of
        from shoal.embeddings.word2vec import train_word2vec

        rows, out = self.embedding_rows, {}
        if rows is None or rows == "initial":
            return {}
        tables, each = spec.model_part.tables(), self.covered_sides() if rows in FROM_FILE else {}
        for number, side in enumerate(self.embedded_sides()):
            name = tables[side]
            padding: Any = model.get_submodule(name.removesuffix(".weight")).padding_idx
            if rows == "word2vec":
                words, width = self.side(side), model.get_parameter(name).shape[1]
                one, kind = covered(words.types, words.first, train_word2vec(words.sentences(), width)), "pretrained"
            else:
                one, kind = each[side], rows
            out[name] = table_of(one, kind, self.embedding_missing, spec.init_seed, number, padding)
        return out


class PretrainedSides(PretrainedSettings):
    """Settings of a task with a table for sources and one for targets."""

    embedding_side: str = choice("source", "side that settings of embeddings are about", SIDES)
    target_embeddings: Source = setting(
        "", "pretrained rows of the target's words, where they are not in embeddings", FORMS, operational=True
    )

    def embedded_sides(self) -> dict[str, str]:
        """See :class:`PretrainedSettings`."""
        target = self.target_embeddings or self.embeddings
        each = {"source": {"source": self.embeddings}, "target": {"target": target}}
        return (
            {"source": self.embeddings, "target": target}
            if self.embedding_side == "both"
            else each[self.embedding_side]
        )

    def check_embeddings(self, tokenizer: str) -> None:
        """See :class:`PretrainedSettings`."""
        if self.target_embeddings and self.embedding_side == "source":
            raise UserError(
                "target_embeddings do not apply to embedding_side=source; they apply to target, and to both beside "
                "embeddings"
            )
        if self.target_embeddings and self.embedding_side == "both" and not self.embeddings:
            raise UserError("embedding_side=both needs embeddings of the source, too: --embeddings FILE")
        super().check_embeddings(tokenizer)


_ASKED = ("embedding_rows", "freeze_embeddings", "embedding_projection")


def words_of(types: Sequence[str], first: int, rows: Iterable[Sequence[int]]) -> list[list[str]]:
    """Words of rows of tokens, without special tokens and without the spaces before them."""
    stripped = [name.strip() for name in types]
    return [[stripped[token - first] for token in row if token >= first] for row in rows]


def _key_of(each: "Mapping[str, Covered]") -> str:
    """Key of the embeddings of all sides: that of the file where there is one side."""
    keys = [one.vectors.key for one in each.values()]
    return keys[0] if len(keys) == 1 else hashlib.sha256(" ".join(keys).encode()).hexdigest()[:16]

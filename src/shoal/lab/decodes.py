r"""Hypotheses that models of a cohort wrote, and their scores: kept so that others can score them again.

    decodes/NAME-SHA.txt     one hypothesis per line, as ``sacrebleu REFERENCE -i`` reads it
    decodes/NAME-SHA.json    of which run and step, from which source, by which search, with which versions
    scores/NAME-SHA-SHA.json its scores against a reference, with their signatures

The first SHA is a hash of the request and the hypotheses, the second of the references and the signatures: another
setting has another name, and nothing is written over. The note is written after the text, so that a text with a note
is whole.
Lines end at ``\n`` alone. A hypothesis that holds one has a space in its place, which scores alike, and the note says
where, so that it can be read as it was.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from shoal.errors import AccessError, LabError, UserError
from shoal.lab.files import LARGEST_PART, check_own, check_shape, is_there, names_in, read, read_json, write, write_json
from shoal.lab.names import check_name
from shoal.lab.shapes import DecodeNote, ScoreNote

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*-[0-9a-f]{16}")
_SCORES = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*-[0-9a-f]{16}-[0-9a-f]{16}")
_PACKAGES = ("shoal", "torch", "sacrebleu")
_END = "\n"


@dataclass(frozen=True)
class Decode:
    """The hypotheses of one model for the lines of one source.

    Attributes:
        id: ``NAME-SHA``, the name of its files.
        path: of the text.
        run: whose model wrote them.
        step: of the model.
        name: that the user gave, such as that of the test set.
        settings: of the search.
        source: SHA-256 of the source, see :func:`sha256_of_lines`.
        versions: of the packages with which they were made.
        hypotheses: one per line of the source.
    """

    id: str
    path: Path
    run: str
    step: int
    name: str
    settings: Mapping[str, Any]
    source: str
    versions: Mapping[str, str]
    hypotheses: tuple[str, ...] = field(repr=False)


def sha256_of_lines(lines: Sequence[str]) -> str:
    """SHA-256 of the text file, in UTF-8, that has these lines, each with a line end."""
    return hashlib.sha256("".join(line + _END for line in lines).encode()).hexdigest()


class Decodes:
    """The folders ``decodes`` and ``scores`` of a cohort."""

    def __init__(self, path: Path) -> None:
        self.path = path / "decodes"
        self.scores_path = path / "scores"

    @contextmanager
    def with_way_out(self) -> Iterator[None]:
        """Add to the error about a damaged file how to have it again."""
        try:
            yield
        except AccessError:
            raise
        except LabError as error:
            mend = f"shoal check --repair --lab {self.path.parent.parent.parent}"
            raise LabError(f"{error}; {mend} moves it aside, so that it can be made again") from None

    def no_folders(self) -> list[Path]:
        """Paths at which something else is in the place of a folder."""
        return [path for path in (self.path, self.scores_path) if is_there(path) and not path.is_dir()]

    def check_folders(self) -> None:
        """Raise :class:`LabError` where a folder is a link, or something else is in its place."""
        check_own([self.path, self.scores_path])
        for path in self.no_folders():
            raise LabError(f"{path} is damaged: it is not a folder")

    # hypotheses

    def there(self) -> list[str]:
        """Ids of the decodes that have a note."""
        names = [name.removesuffix(".json") for name in names_in(self.path) if name.endswith(".json")]
        return [name for name in names if _NAME.fullmatch(name)]

    def strays(self) -> list[Path]:
        """Files that have no note, such as those of a process that was killed before it, or no name of ours."""
        known = {f"{key}{ending}" for key in self.there() for ending in (".txt", ".json")}
        texts = [self.path / name for name in names_in(self.path) if name not in known and name[:1] != "."]
        scores = {f"{key}.json" for key in self.scored()}
        return texts + [self.scores_path / n for n in names_in(self.scores_path) if n not in scores and n[:1] != "."]

    def keep(
        self, run: str, step: int, name: str, hypotheses: Sequence[str], settings: Mapping[str, Any], source: str
    ) -> Decode:
        """Keep hypotheses; files that are kept already, and are the same, stay as they are.

        Args:
            run: whose model wrote them.
            step: of the model.
            name: part of the name of the files, such as that of the test set.
            hypotheses: one per line of the source, detokenised and cased.
            settings: of the search, any numbers and words by name.
            source: SHA-256 of the source.

        Raises:
            UserError: there is no hypothesis, one cannot be written as UTF-8, the name is not allowed, the step is no
                step, or the settings are no numbers and words.
            LabError: the same is there and damaged, or the place of the folder is taken.
            DiskError: the disk is full or refuses.
        """
        check_name(name, "decode")
        with self.with_way_out():
            self.check_folders()
        content, newlines = _written(hypotheses)
        record = {
            "run": run,
            "step": step,
            "name": name,
            "settings": _as_json(settings),
            "source": source,
            "lines": len(hypotheses),
            "newlines": newlines,
            "hypotheses": hashlib.sha256(content).hexdigest(),
        }
        key = f"{name}-{_digest(record)}"
        note = self.path / f"{key}.json"
        _check_kept(note, record | {"versions": _versions()})
        if not is_there(note):
            write(self.path / f"{key}.txt", content)
            write_json(note, record | {"versions": _versions()})
        with self.with_way_out():
            return self.read(key)

    def read(self, key: str) -> Decode:
        """The hypotheses as they were kept.

        Raises:
            LabError: a file is missing or damaged, or is not the one that its name says.
        """
        path = self.path / f"{key}.txt"
        note = self._note(key)
        try:
            content = read(path, LARGEST_PART)
        except FileNotFoundError:
            raise LabError(f"{path} is missing") from None
        lines = content.decode("utf-8", "replace").split(_END)[:-1]
        if hashlib.sha256(content).hexdigest() != note["hypotheses"] or len(lines) != note["lines"]:
            raise LabError(f"{path} is damaged: its checksum does not match its content")
        for at, places in note["newlines"].items():
            if int(at) >= len(lines) or max(places, default=0) >= len(lines[int(at)]):
                raise LabError(f"{self.path / f'{key}.json'} is damaged: there is no place of a line end in line {at}")
            lines[int(at)] = _restored(lines[int(at)], places)
        fields = {name: note[name] for name in ("run", "step", "name", "settings", "source", "versions")}
        return Decode(id=key, path=path, hypotheses=tuple(lines), **fields)

    def _note(self, key: str) -> dict[str, Any]:
        path = self.path / f"{key}.json"
        note = dict(read_json(path, DecodeNote))
        content = {name: note[name] for name in note if name != "versions"}
        if key != f"{note['name']}-{_digest(content)}":
            raise LabError(f"{path} is damaged: its name is not that of what it says")
        return note

    # scores

    def scored(self, key: str | None = None) -> list[str]:
        """Names of the files of scores, of one decode or of all."""
        names = [name.removesuffix(".json") for name in names_in(self.scores_path) if name.endswith(".json")]
        return [name for name in names if _SCORES.fullmatch(name) and (key is None or name[:-17] == key)]

    def keep_scores(
        self, decode: Decode, references: Sequence[str], scores: Mapping[str, tuple[float, str]]
    ) -> dict[str, Any]:
        """Keep the scores of hypotheses; a file of the same references and signatures stays as it is.

        Args:
            decode: the hypotheses that were scored.
            references: the SHA-256 of each, see :func:`sha256_of_lines`.
            scores: by name the score and its signature.

        Returns:
            Content of the file: ``decode``, ``hypotheses`` (their SHA-256), ``references``, ``scores``, ``versions``.
        """
        with self.with_way_out():
            self.check_folders()
            hypotheses = self._note(decode.id)["hypotheses"]
        record = {
            "decode": decode.id,
            "hypotheses": hypotheses,
            "references": list(references),
            "scores": {name: {"score": score, "signature": signed} for name, (score, signed) in scores.items()},
            "versions": _versions(),
        }
        name = f"{decode.id}-{_score_digest(record)}"
        path = self.scores_path / f"{name}.json"
        if not is_there(path):
            check_shape(path, record, ScoreNote)
            write_json(path, record)
        with self.with_way_out():
            return self.read_scores(name)

    def read_scores(self, name: str) -> dict[str, Any]:
        """Content of a file of scores.

        Raises:
            LabError: it is missing or damaged, or not of the hypotheses that its name says.
        """
        path = self.scores_path / f"{name}.json"
        note = dict(read_json(path, ScoreNote))
        if name != f"{note['decode']}-{_score_digest(note)}":
            raise LabError(f"{path} is damaged: its name is not that of what it says")
        if note["decode"] not in self.there():
            raise LabError(f"{path} is of hypotheses {note['decode']}, which are missing")
        if self._note(note["decode"])["hypotheses"] != note["hypotheses"]:
            raise LabError(f"{path} is damaged: it is of other hypotheses than {note['decode']}")
        return note


def _as_json(settings: Mapping[str, Any]) -> Any:
    try:
        return json.loads(json.dumps(dict(settings)))
    except (TypeError, ValueError) as error:
        raise UserError(f"settings of a search must be numbers and words by name: {error}") from None


def _check_kept(note: Path, record: Mapping[str, Any]) -> None:
    """Raise :class:`UserError` where a record to be kept does not have the shape of a note."""
    try:
        check_shape(note, record, DecodeNote)
    except LabError as error:
        raise UserError(f"hypotheses cannot be kept so: {str(error).partition(' is damaged: ')[2]}") from None


def _written(hypotheses: Sequence[str]) -> tuple[bytes, dict[str, list[int]]]:
    """Bytes of the text, and by line the places of line ends within it."""
    if not hypotheses:
        raise UserError("there are no hypotheses to keep")
    newlines, lines = {}, []
    for at, text in enumerate(hypotheses):
        if _END in text:
            newlines[str(at)] = [place for place, sign in enumerate(text) if sign == _END]
        try:
            lines.append(text.replace(_END, " ").encode() + b"\n")
        except UnicodeEncodeError as error:
            raise UserError(f"hypothesis {at + 1} holds half of a surrogate pair at {error.start}: no UTF-8") from None
    return b"".join(lines), newlines


def _restored(line: str, places: Sequence[int]) -> str:
    signs = list(line)
    for place in places:
        signs[place] = _END
    return "".join(signs)


def _digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]


def _score_digest(record: Mapping[str, Any]) -> str:
    """Digest of the references and of the signatures, which name tokenisation and version."""
    how = {name: score["signature"] for name, score in record["scores"].items()}
    return _digest({"references": record["references"], "scores": how})


def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # sacrebleu is an extra
            continue
    return versions

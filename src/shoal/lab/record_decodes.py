"""Hypotheses of the models of some runs and their scores, as :class:`shoal.lab.Records` keep and read them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import polars as pl

from shoal.errors import LabError, UserError
from shoal.lab.cohort import CohortFolder
from shoal.lab.decodes import Decode, sha256_of_lines
from shoal.lab.record_labels import LabelRecords

if TYPE_CHECKING:
    from shoal.decoding.answers import Answer
    from shoal.decoding.beam import Beam
    from shoal.lab.records import Records

_SCORES = {
    "run": pl.String,
    "step": pl.Int64,
    "name": pl.String,
    "decode": pl.String,
    "references": pl.String,
    "score": pl.String,
    "value": pl.Float64,
    "signature": pl.String,
}


class DecodeRecords(LabelRecords):
    """Hypotheses and scores of runs."""

    def keep_hypotheses(
        self,
        run: str,
        step: int,
        name: str,
        hypotheses: Sequence[str],
        source: Sequence[str],
        settings: Mapping[str, Any] | None = None,
    ) -> Decode:
        """Keep hypotheses of a run's model, see :meth:`shoal.lab.decodes.Decodes.keep`.

        Args:
            run: its id, an unambiguous beginning of it, or its name.
            step: of the model.
            name: of the test set, such as ``test_2016_flickr``.
            hypotheses: one per line of the source, detokenised and cased.
            source: the lines that were translated.
            settings: of the search.

        Raises:
            UserError: no run here has such an id, there are not as many hypotheses as lines of the source, or one
                cannot be written.
        """
        run = self.find(run)
        if len(hypotheses) != len(source):
            raise UserError(f"{len(hypotheses):,} hypotheses are not of {len(source):,} lines of the source")
        folder = self._folders[run]
        with folder.adding():
            return folder.decodes.keep(run, step, name, hypotheses, settings or {}, sha256_of_lines(source))

    def answers(
        self,
        lines: Sequence[str],
        beam: "Beam | None" = None,
        max_new_tokens: int | None = None,
        step: int | str | None = None,
        average: int = 1,
    ) -> "dict[str, list[tuple[Answer, ...]]]":
        """Answers of the kept models of these runs to each line; see :func:`shoal.decoding.answers.answer`.

        Args:
            lines: sources, one each.
            beam: how to search; None takes the likeliest token each time.
            max_new_tokens: of an answer at most, its end included; the positions of the model when not given.
            step: of the models, see :meth:`shoal.lab.Records.model`.
            average: likewise.

        Returns:
            By run, for every line the answers, the best first.

        Raises:
            UserError: a run is of a task without sources, or has no such model, or the lines or the search do not go.
        """
        from shoal.decoding.answers import answer
        from shoal.lab.alike import models_by_shape
        from shoal.tasks.pairs.codec import PairCodec

        records = cast("Records", self)
        for run, spec in records.specs.items():
            if "pair" not in spec.task_part.offers:
                raise UserError(f"run {run[:8]} has task {spec.task}, which has no sources to answer to")
        answers_of: dict[str, list[tuple[Answer, ...]]] = {}
        for group in models_by_shape(records, "codec", PairCodec.from_json, step, average):
            n = group.spec.task_part.sizes().sequence_length if max_new_tokens is None else max_new_tokens
            made = answer(group.models, group.spec.model_part.reads, group.kept, lines, n, beam)
            answers_of |= dict(zip(made.runs, map(list, made.answers), strict=True))
        return {run: answers_of[run] for run in records.ids}

    def decodes(self, name: str | None = None) -> list[Decode]:
        """The hypotheses that were kept of these runs, in the order of the runs; only those of a name if given.

        Damaged ones are left out, and :meth:`damaged_decodes` names them.
        """
        chosen = [decode for decode in self._read()[0] if name in (None, decode.name)]
        order = {run: place for place, run in enumerate(self._folders)}
        return sorted(chosen, key=lambda decode: (order[decode.run], decode.step, decode.id))

    def damaged_decodes(self) -> dict[str, str]:
        """Damage to hypotheses and scores, each as a line with a remedy, by the names of their files.

        A damaged note does not say of which run it is: those of the cohorts of these runs are all named.
        """
        _, wrong = self._read()
        for folder in self._cohorts():
            decodes = folder.decodes
            for name in decodes.scored():
                try:
                    with decodes.with_way_out():
                        decodes.read_scores(name)
                except LabError as error:
                    wrong[name] = str(error)
        return wrong

    def _read(self) -> tuple[list[Decode], dict[str, str]]:
        """The hypotheses that are whole, and the damage to the others, by the names of their files."""
        whole, wrong = [], {}
        for decodes in (folder.decodes for folder in self._cohorts()):
            try:
                with decodes.with_way_out():
                    decodes.check_folders()
            except LabError as error:
                wrong[decodes.path.name] = str(error)
            for key in decodes.there():
                try:
                    with decodes.with_way_out():
                        whole.append(decodes.read(key))
                except LabError as error:
                    wrong[key] = str(error)
        return [decode for decode in whole if decode.run in self._folders], wrong

    def keep_scores(
        self, decode: Decode, references: Sequence[Sequence[str]], tokenizer: str = "13a"
    ) -> dict[str, Any]:
        """Score kept hypotheses against one or several references, and keep the scores with their signatures.

        Returns:
            The kept scores: by name each ``score`` with its ``signature`` under ``scores``; see
            :func:`shoal.analysis.sentence_scores.text_scores`.

        Raises:
            UserError: the numbers of lines differ, or sacrebleu is missing.
        """
        from shoal.analysis.sentence_scores import text_scores

        scored = text_scores([decode.hypotheses], references, tokenizer)
        scores = {
            name: (float(statistics.corpus()[0]), scored.signatures.get(name, ""))
            for name, statistics in scored.statistics.items()
        }
        folder = self._folders[self.find(decode.run)]
        with folder.adding():
            return folder.decodes.keep_scores(decode, [sha256_of_lines(lines) for lines in references], scores)

    def scores(self) -> pl.DataFrame:
        """Every kept score; damaged ones are left out, and :meth:`damaged_decodes` names them.

        Returns:
            One row per score: ``run``, ``step``, ``name``, ``decode``, ``references`` (SHA-256, one or several),
            ``score`` (its name), ``value`` (percent), ``signature``.
        """
        rows, wrong = [], self.damaged_decodes()
        for decode in self.decodes():
            decodes = self._folders[decode.run].decodes
            whole = [name for name in decodes.scored(decode.id) if name not in wrong]
            for note in map(decodes.read_scores, whole):
                about = (decode.run, decode.step, decode.name, decode.id, " ".join(note["references"]))
                rows += [(*about, name, it["score"], it["signature"]) for name, it in note["scores"].items()]
        return pl.DataFrame(rows, _SCORES, orient="row")

    def _cohorts(self) -> list[CohortFolder]:
        return list({folder.path: folder for folder in self._folders.values()}.values())

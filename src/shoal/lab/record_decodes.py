"""What the models of some runs wrote and what that scores, as :class:`shoal.lab.Records` keep and read it."""

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
        """Keep what a run's model wrote, see :meth:`shoal.lab.decodes.Decodes.keep`.

        Args:
            run: its id, an unambiguous beginning of it, or its name.
            step: of the model.
            name: of what was translated, such as ``test_2016_flickr``.
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
        """What the kept models of these runs answer to each line; see :func:`shoal.decoding.answers.answer`.

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
        found: dict[str, list[tuple[Answer, ...]]] = {}
        for group in models_by_shape(records, "codec", PairCodec.from_json, step, average):
            n = group.spec.task_part.sizes().sequence_length if max_new_tokens is None else max_new_tokens
            made = answer(group.models, group.spec.model_part.reads, group.kept, lines, n, beam)
            found |= dict(zip(made.runs, map(list, made.answers), strict=True))
        return {run: found[run] for run in records.ids}

    def decodes(self, name: str | None = None) -> list[Decode]:
        """The hypotheses that were kept of these runs, in the order of the runs; perhaps those of one name alone.

        What is damaged is left out, and :meth:`damaged_decodes` names it.
        """
        kept = [decode for decode in self._read()[0] if name in (None, decode.name)]
        order = {run: place for place, run in enumerate(self._folders)}
        return sorted(kept, key=lambda decode: (order[decode.run], decode.step, decode.id))

    def damaged_decodes(self) -> dict[str, str]:
        """What is wrong with hypotheses and scores, and what to do, by the names of their files.

        A damaged note does not say of which run it is: those of the cohorts of these runs are all named.
        """
        _, wrong = self._read()
        for folder in self._cohorts():
            own = folder.decodes
            for name in own.scored():
                try:
                    with own.with_way_out():
                        own.read_scores(name)
                except LabError as error:
                    wrong[name] = str(error)
        return wrong

    def _read(self) -> tuple[list[Decode], dict[str, str]]:
        """The hypotheses that are whole, and what is wrong with the others, by the names of their files."""
        found, wrong = [], {}
        for own in (folder.decodes for folder in self._cohorts()):
            try:
                with own.with_way_out():
                    own.check_folders()
            except LabError as error:
                wrong[own.path.name] = str(error)
            for key in own.there():
                try:
                    with own.with_way_out():
                        found.append(own.read(key))
                except LabError as error:
                    wrong[key] = str(error)
        return [decode for decode in found if decode.run in self._folders], wrong

    def keep_scores(
        self, decode: Decode, references: Sequence[Sequence[str]], tokenizer: str = "13a"
    ) -> dict[str, Any]:
        """Score kept hypotheses against one or several references, and keep that with its signatures.

        Returns:
            What is kept: by name each ``score`` with its ``signature`` under ``scores``; see
            :func:`shoal.analysis.sentence_scores.text_scores`.

        Raises:
            UserError: the numbers of lines differ, or sacrebleu is missing.
        """
        from shoal.analysis.sentence_scores import text_scores

        found = text_scores([decode.hypotheses], references, tokenizer)
        scores = {
            name: (float(statistics.corpus()[0]), found.signatures.get(name, ""))
            for name, statistics in found.statistics.items()
        }
        folder = self._folders[self.find(decode.run)]
        with folder.adding():
            return folder.decodes.keep_scores(decode, [sha256_of_lines(lines) for lines in references], scores)

    def scores(self) -> pl.DataFrame:
        """Every kept score; what is damaged is left out, and :meth:`damaged_decodes` names it.

        Returns:
            One row per score: ``run``, ``step``, ``name``, ``decode``, ``references`` (SHA-256, one or several),
            ``score`` (its name), ``value`` (percent), ``signature``.
        """
        rows, wrong = [], self.damaged_decodes()
        for decode in self.decodes():
            own = self._folders[decode.run].decodes
            whole = [name for name in own.scored(decode.id) if name not in wrong]
            for said in map(own.read_scores, whole):
                about = (decode.run, decode.step, decode.name, decode.id, " ".join(said["references"]))
                rows += [(*about, name, it["score"], it["signature"]) for name, it in said["scores"].items()]
        return pl.DataFrame(rows, _SCORES, orient="row")

    def _cohorts(self) -> list[CohortFolder]:
        return list({folder.path: folder for folder in self._folders.values()}.values())

"""Contract of executors: records do not depend on the executor."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from shoal.errors import UserError
from shoal.lab import Lab
from shoal.lab.cohort import CohortFolder
from shoal.spec import RunSpec
from shoal.testing.base import CPU, Contract
from shoal.training.executor import Execution, Watch, execute
from shoal.training.plan import plan
from shoal.training.snapshot import Snapshot


class ExecutorContract(Contract):
    """Contract of executors, tested on two small cohorts: of runs with the settings, and with another shape.

    A subclass gives the tested executor as :meth:`execute`; the default is shoal's own in this process.

    Attributes:
        settings: settings of the run, which must take more than two steps.
        other: settings of the other shape; by default another batch size.
    """

    settings: ClassVar[Mapping[str, Any]] = {"p": 5, "num_layers": 1, "embedding_size": 4, "n_steps": 12}
    other: ClassVar[Mapping[str, Any]] = {}

    def execute(self, folders: Sequence[CohortFolder], execution: Execution, watch: Watch) -> bool:
        """Train cohorts to their ends; False when stopped before that."""
        return execute(folders, workers=1, execution=execution, watch=watch)

    def test_every_cohort_is_trained_to_the_same_bits(self, spec: RunSpec, tmp_path: Path) -> None:
        """Records have the same bits as by this process alone; each cohort is watched to its end."""
        watched: list[Snapshot] = []
        folders = self._begun(spec, tmp_path / "own")
        assert self.execute(folders, _execution(), watched.append)
        assert execute(self._begun(spec, tmp_path / "here"), workers=1, execution=_execution(), watch=lambda _: None)
        tested, here = (Lab(tmp_path / name).records() for name in ("own", "here"))
        assert tested.runs()["state"].to_list() == ["done"] * len(tested)
        assert tested.curves().sort("run", "step").equals(here.curves().sort("run", "step"))
        assert {last.cohort for last in watched if last.state == "done"} == {folder.id for folder in folders}

    def test_what_is_finished_is_left_as_it_is(self, spec: RunSpec, tmp_path: Path) -> None:
        """Finished cohorts are not trained again."""
        folders = self._begun(spec, tmp_path / "own")
        assert self.execute(folders, _execution(), lambda _: None)
        sessions = [folder.status()["sessions"] for folder in folders]
        assert self.execute(folders, _execution(), lambda _: None)
        assert [folder.status()["sessions"] for folder in folders] == sessions

    def test_a_cohort_that_cannot_be_trained_keeps_no_other_from_it(self, spec: RunSpec, tmp_path: Path) -> None:
        """Errors of a cohort are raised when the others are done."""
        damaged, whole = self._begun(spec, tmp_path / "own")
        (damaged.path / "checkpoint.safetensors").write_bytes(b"nothing of the kind")
        with pytest.raises(UserError, match=damaged.id):
            self.execute([damaged, whole], _execution(), lambda _: None)
        assert whole.is_finished()
        assert not any(damaged.models(member["run"]) for member in damaged.manifest()["members"])

    def _begun(self, spec: RunSpec, path: Path) -> list[CohortFolder]:
        """Folders of two cohorts of two runs each, written and not trained."""
        lab = Lab(path).create()
        other = self.other or {"train_batch_size": spec.train_batch_size + 1}
        shapes = (spec, spec.replace(**other))
        folders = []
        for cohort in plan(shape.replace(seed=seed) for shape in shapes for seed in (0, 1)):
            folder = lab.cohort(cohort.id)
            folder.create(list(cohort.members), 1)
            folders.append(folder)
        return folders


def _execution() -> Execution:
    return Execution(CPU, 20.0, {})

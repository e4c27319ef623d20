"""Kept models of the runs of :class:`shoal.lab.Records`: modules of PyTorch, and fitted hidden Markov models."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import polars as pl

from shoal.errors import LabError, UserError
from shoal.lab.cohort import CohortFolder
from shoal.lab.fitted import Fitted, read_fitted
from shoal.lab.kept import kept_steps
from shoal.lab.record_views import Run
from shoal.spec import RunSpec

if TYPE_CHECKING:
    from shoal.hmm import HeldOut
    from shoal.lab.records import Records
    from shoal.tasks.sequences.data import Observations

FITS: dict[str, Any] = {
    "run": pl.String,
    "log_likelihood": pl.Float64,
    "valid_log_likelihood": pl.Float64,
    "valid_problem": pl.String,
    "updates": pl.Int64,
    "converged": pl.Boolean,
    "parameters": pl.Int64,
    "aic": pl.Float64,
    "bic": pl.Float64,
    "problem": pl.String,
}


class ModelRecords:
    """Records as their kept models."""

    _folders: dict[str, CohortFolder]

    def _all(self) -> "Records":
        return cast("Records", self)

    def model_files(self, run: str | Run | RunSpec) -> dict[int, Path]:
        """The kept models of a run by step."""
        one = self._all().find(run)
        return self._folders[one].models(one)

    def model(self, run: str | Run | RunSpec, step: int | str | None = None, average: int = 1) -> Any:
        """A kept model, ready to evaluate; the last one when no ``step`` is named.

        Args:
            run: its id or name, its spec, or a run of :class:`Records`.
            step: after which it was kept; ``best`` is that of the lowest validation loss (``keep_best``).
            average: of so many models, of the last that were kept every ``save_model_step`` up to that step, the mean
                of the parameters; buffers are those of the last.

        Returns:
            A ``torch.nn.Module``; of a hidden Markov model a :class:`shoal.hmm.HMM`, a stack of one.

        Raises:
            UserError: no run here has such an id, or several have; or there is no such step, or number of models.
            LabError: no model was kept at that step, too few were kept to average, or a file is damaged.
        """
        from shoal.lab.averaging import averaged
        from shoal.tasks.build import build_model

        run = self._all().find(run)
        steps = self.model_steps(run, step, average)
        spec = self._all().spec_of(run)
        if spec.model_part.fitted_by == "em":
            return read_fitted(self._folders[run], run, steps).model
        return averaged(self._folders[run], run, steps, build_model(spec)).eval()

    def model_steps(self, run: str, step: int | str | None = None, average: int = 1) -> list[int]:
        """Steps of the kept model, or of those it is the mean of, in order; arguments as for :meth:`model`.

        Raises:
            UserError: no run here has such an id, or several have; or there is no such step, or number of models.
            LabError: no model was kept at that step, or too few were kept to average.
        """
        run = self._all().find(run)
        return kept_steps(self._folders[run], run, step, average, self._all().spec_of(run).save_model_step)

    def fitted(self, run: str | Run | RunSpec, step: int | None = None) -> Fitted:
        """Kept hidden Markov model of a run, with its exact log-likelihoods and problems.

        Raises:
            UserError: the run is of another family, or there is no such run.
            LabError: no model was kept at that step, or a file is damaged.
        """
        run = self._all().find(run)
        spec = self._all().spec_of(run)
        if spec.model_part.fitted_by != "em":
            raise UserError(f"run {run} is of model {spec.model!r}, which EM does not fit")
        return read_fitted(self._folders[run], run, self.model_steps(run, step))

    def held_out(self, run: str | Run | RunSpec) -> "HeldOut":
        """Log-likelihood per observation of the validation sequences under the kept model of a run, in nats.

        Returns:
            Its value and Student's interval (95 %), which takes sequences as independent.

        Raises:
            UserError: the run is of another family, or its sequences cannot be read.
            LabError: no model was kept, or a file is damaged.
        """
        import numpy as np

        from shoal.hmm import Sequences, held_out

        spec, fitted = self._all().spec_of(self._all().find(run)), self.fitted(run)
        data: Observations = spec.task_part.data()  # type: ignore[attr-defined]  # of sequences
        return held_out(fitted.model, Sequences(data.values, data.lengths).subset(np.flatnonzero(data.is_valid)))

    def fits(self) -> pl.DataFrame:
        """One row per hidden Markov model that is fitted.

        Returns:
            ``run``; ``log_likelihood`` of its training sequences, each as often as it was drawn, and
            ``valid_log_likelihood``, in nats, exact to float64; ``valid_problem``, which observation of the validation
            sequences is impossible; ``updates``, ``converged``; the number of free ``parameters``; ``aic`` and ``bic``
            of the training sequences; and ``problem``, empty of a sound fit. Those of :meth:`lost_fits` are left out.
        """
        from shoal.hmm import criteria

        rows = []
        for run, one in self._read_fits()[0].items():
            spec = self._all().spec_of(run)
            n = spec.num_observations if one.observations is None else one.observations
            measured = criteria(one.model, one.log_likelihood, n)
            rows.append(
                {
                    "run": run,
                    "log_likelihood": one.log_likelihood,
                    "valid_log_likelihood": one.valid_log_likelihood,
                    "valid_problem": one.valid_problem,
                    "updates": one.updates,
                    "converged": one.converged,
                    "parameters": measured.n_parameters,
                    "aic": measured.aic,
                    "bic": measured.bic,
                    "problem": "; ".join(one.problems),
                }
            )
        return pl.DataFrame(rows, schema=FITS)

    def lost_fits(self) -> dict[str, str]:
        """Hidden Markov models that are fitted and cannot be read, by run: what is wrong with each, in words."""
        return self._read_fits()[1]

    def _read_fits(self) -> tuple[dict[str, Fitted], dict[str, str]]:
        """Last kept hidden Markov model of each run that has one, and why others have none though they have ended."""
        fits: dict[str, Fitted] = {}
        lost: dict[str, str] = {}
        states = dict(self._all().runs().select("run", "state").iter_rows())
        for run, settings in self._all()._settings().items():
            # by the settings as they stand in the lab: runs of parts that are not here are none of EM's
            if settings["optimizer"] != "em" or not (self._folders[run].models(run) or states[run] == "done"):
                continue
            try:
                fits[run] = self.fitted(run)
            except LabError as error:
                lost[run] = str(error)
        return fits, lost

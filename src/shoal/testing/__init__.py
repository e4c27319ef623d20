"""Contract suites: tests that every task, model, rule, engine and executor must pass, shoal's own and yours.

A suite is a class of pytest tests; a subclass gives the settings of a small run::

    from shoal.testing import TaskContract

    class TestReverse(TaskContract):
        settings = {"task": "tidepool.tasks:Reverse", "length": 3, "sequences": 40}

Only this package of shoal's needs pytest.
"""

import pytest

pytest.register_assert_rewrite(
    *(f"shoal.testing.{name}" for name in ("base", "tasks", "models", "rules", "engines", "executors"))
)

from shoal.testing.engines import EngineContract  # noqa: E402 (after their asserts were asked to explain themselves)
from shoal.testing.executors import ExecutorContract  # noqa: E402
from shoal.testing.models import ModelContract  # noqa: E402
from shoal.testing.rules import RuleContract  # noqa: E402
from shoal.testing.tasks import TaskContract  # noqa: E402

__all__ = ["EngineContract", "ExecutorContract", "ModelContract", "RuleContract", "TaskContract"]

"""Tables of what models write and how good that is."""

from collections.abc import Iterable, Mapping, Sequence

from shoal.analysis.translation import ScoreInterval
from shoal.report.table import Cell, Table
from shoal.spec import RunSpec
from shoal.spec.training import SEEDS


def settings_of(specs: Iterable[RunSpec]) -> dict[str, list[str]]:
    """Runs that differ in their seeds alone, by what tells them from the others.

    Returns:
        Ids of runs by a label such as ``"lr=0.001"``: the settings that are not the same for all. Of several families
        it names the family and what is not the same within it: what one family has and another lacks tells nothing
        that its name does not. One label where all differ in seeds alone is that of the model.
    """
    specs = list(specs)
    groups: dict[tuple[tuple[str, str], ...], list[RunSpec]] = {}
    for spec in specs:
        settings = {name: str(value) for name, value in spec.canonical().items() if name not in SEEDS}
        groups.setdefault(tuple(sorted(settings.items())), []).append(spec)
    names = [name for name in dict.fromkeys(name for spec in specs for name in spec) if name not in (*SEEDS, "seed")]
    models = {model: [spec for spec in specs if spec.model == model] for model in dict.fromkeys(s.model for s in specs)}
    by_label: dict[str, list[str]] = {}
    for members in groups.values():
        first = members[0]
        varying = _varying(names, models[first.model])
        if len(models) > 1:
            varying = ["model", *(name for name in varying if name != "model")]
        label = ", ".join(f"{name}={first.get(name)}" for name in varying if first.get(name) is not None)
        by_label.setdefault(label or first.model, []).extend(spec.id for spec in members)
    return by_label


def _varying(names: Sequence[str], specs: Sequence[RunSpec]) -> list[str]:
    """The settings that are not the same for all of these."""
    return [name for name in names if len({str(spec.get(name)) for spec in specs}) > 1]


def translation_table(
    scores: Mapping[str, Mapping[str, ScoreInterval]], saved: Mapping[str, Sequence[float]] = {}
) -> Table:
    """Scores of each setting, over its runs.

    Args:
        scores: by setting, by name of the score.
        saved: shares of the steps that a rule of stopping saved, by setting: one for each run.
    """
    names = list(next(iter(scores.values())))
    is_searched = any(value > 0 for shares in saved.values() for value in shares)
    header = ["setting", "runs", *names, *(["steps saved"] if is_searched else [])]
    rows = []
    for label, by_score in scores.items():
        cells = [Cell(str(next(iter(by_score.values())).seeds)), *(Cell(interval(by_score[name])) for name in names)]
        if is_searched:
            cells.append(Cell(f"{100 * sum(saved[label]) / len(saved[label]):.0f} %"))
        rows.append((label, cells))
    return Table("translation", header, rows, "Scores of what models write, in percent.")


def interval(found: ScoreInterval) -> str:
    """``36.5 [35.1, 37.9]``."""
    middle = f"{found.score:.2f}"
    return middle if found.low != found.low else f"{middle} [{found.low:.2f}, {found.high:.2f}]"

"""The practical's functions: its names, signatures and dictionaries, held to what the lab has on record."""

import argparse
import inspect
import re
from pathlib import Path

import polars as pl
import pytest
from helpers import TINY
from torch.utils.data import DataLoader

import shoal
from shoal import practical
from shoal.errors import UserError
from shoal.practical import Arguments, eval_model, plot_loss_accs, spec_of, train, train_m_models

# As the released code has them.
SIGNATURES = {
    "train": ["args"],
    "train_m_models": ["args", "M", "seeds"],
    "eval_model": ["model", "loader", "device"],
    "plot_loss_accs": [
        "statistics",
        "multiple_runs",
        "log_x",
        "log_y",
        "figsize",
        "linewidth",
        "fontsize",
        "fileName",
        "filePath",
        "show",
    ],
    "get_extrema_performance_steps": ["all_metrics", "T_max"],
    "get_extrema_performance_steps_per_trials": ["all_metrics", "T_max"],
    "get_loss_and_accuracy": ["logits", "targets", "eq_positions", "mask", "reduction"],
}


class Theirs:
    """The practical's own arguments: on the class, for both models at once."""

    p: int = 5
    operator: str = "+"
    r_train: float = 0.6
    operation_orders: int = 2
    train_batch_size: int = 512
    eval_batch_size: int = 2**12
    num_workers: int = 0
    model: str = "lstm"
    num_heads: int = 2
    num_layers: int = 1
    embedding_size: int = 8
    hidden_size: int = 8
    dropout: float = 0.0
    share_embeddings: bool = False
    bias_classifier: bool = True
    optimizer: str = "adamw"
    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 1.0
    n_steps: int = 12
    eval_first: int = 3
    eval_period: int = 5
    print_step: int = 100
    save_model_step: int = 10**3
    save_statistic_step: int = 10**3
    device: str = "cpu"
    exp_id: int = 0
    exp_name: str = "test"
    seed: int = 42
    verbose: bool = True


@pytest.fixture
def args(tmp_path):
    return Arguments(**TINY, log_dir=tmp_path / "lab", verbose=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What ``train_m_models`` returns of two GPTs, and their lab."""
    args = Theirs()
    args.model, args.log_dir = "gpt", tmp_path_factory.mktemp("practical") / "lab"
    return train_m_models(args, M=2, seeds=[0, 42]), args.log_dir


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_begin_as_those_of_the_practical(name):
    assert list(inspect.signature(getattr(practical, name)).parameters)[: len(SIGNATURES[name])] == SIGNATURES[name]


@pytest.mark.parametrize("model", ["lstm", "gpt"])
def test_their_arguments_are_one_run_whatever_holds_them(model):
    settings = {name: getattr(Theirs, name) for name in dir(Theirs) if not name.startswith("_")} | {"model": model}
    theirs = Theirs()
    theirs.model = model
    heads = {"num_heads": 2} if model == "gpt" else {}
    expected = shoal.RunSpec(**TINY, model=model, save_model_step=1000, **heads)
    forms = [theirs, argparse.Namespace(**settings), Arguments(**settings), expected]
    assert [spec_of(form).id for form in forms] == [expected.id] * 4


def test_defaults_are_those_of_the_practical():
    assert spec_of(Arguments()) == shoal.RunSpec()


def test_train_returns_the_curves_and_where_the_models_are(args):
    all_metrics, path = train(args)
    (run,) = shoal.Lab(args.log_dir).records()
    assert run.spec == spec_of(args)
    assert all_metrics == run.metrics()
    assert [path / file.name for file in run.models().values()] == list(run.models().values())


def test_m_models_are_one_grid(trained):
    (models, all_metrics, paths), lab = trained
    records = shoal.Lab(lab).records()
    assert [run.spec.seed for run in records] == [0, 42]
    assert models == [list(run.models().values()) for run in records]
    assert all_metrics["test"]["loss"] == [run.metrics()["test"]["loss"] for run in records]
    assert paths == [file[-1].parent for file in models]
    assert (lab / "reports" / "practical" / "test-M2.pdf").read_bytes().startswith(b"%PDF")


def test_m_counts_up_from_the_seed(args):
    args.seed = 7
    train_m_models(args, 3)
    assert [run.spec.seed for run in shoal.Lab(args.log_dir).records()] == [7, 8, 9]


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_eval_model_finds_what_was_recorded(trained, batch_size):
    for run in shoal.Lab(trained[1]).records():
        splits, *_ = practical.get_arithmetic_dataset(5, 5, "+", 0.6, 2, seed=run.spec.seed)
        last = run.curve().row(-1, named=True)
        model = run.model().train()
        for name, split in zip(("train", "valid"), splits, strict=True):
            found = eval_model(model, DataLoader(split, batch_size=batch_size), "cpu")
            assert found == pytest.approx({q: last[f"{name}_{q}"] for q in ("loss", "accuracy")}, abs=1e-5)
        assert model.training


def test_the_figure_shows_every_run_and_the_mean(trained):
    (_, all_metrics, _), lab = trained
    spec = plot_loss_accs(all_metrics, multiple_runs=True, show=False).spec
    rows = [row for rows in spec["datasets"].values() for row in rows]
    shown = {(row["run"], row["split"], row["step"]) for row in rows if "run" in row}
    assert shown == {(r, s, t) for r in (0, 1) for s in ("training", "validation") for t in all_metrics["all_steps"][0]}
    curves = shoal.Lab(lab).records().curves()
    mean = curves.filter(step=10).select(pl.col("valid_loss").mean()).item()
    assert any(row.get("mean") == pytest.approx(mean) and row["step"] == 10 for row in rows)


@pytest.mark.parametrize(("log_x", "log_y"), [(False, False), (True, False), (False, True), (True, True)])
def test_axes_are_logarithmic_where_asked(trained, log_x, log_y):
    metrics = shoal.Lab(trained[1]).records()[0].metrics()
    spec = plot_loss_accs(metrics, log_x=log_x, log_y=log_y, figsize=(3, 2), linewidth=4, fontsize=20, show=False).spec
    accuracy, loss = spec["concat"]
    assert spec["config"]["axis"]["titleFontSize"] == 20
    for panel, is_log in ((accuracy, False), (loss, log_y)):
        scales = [layer["encoding"] for layer in panel["layer"]]
        assert {scale["y"]["scale"].get("type") == "log" for scale in scales} == {is_log}
        assert {scale["x"].get("scale", {}).get("type") == "log" for scale in scales} == {log_x}
        assert panel["width"] < 200
    steps = [row["step"] for rows in spec["datasets"].values() for row in rows]
    assert (0 in steps) != log_x
    assert max(layer["mark"].get("strokeWidth", 0) for layer in loss["layer"]) > 4


def test_a_figure_is_written_and_shown_where_it_is_asked_for(trained, tmp_path, capsys):
    metrics = shoal.Lab(trained[1]).records()[0].metrics()
    assert plot_loss_accs(metrics, fileName="both", filePath=tmp_path / "new") is None
    assert (tmp_path / "new" / "both.pdf").exists()
    assert "notebook" in capsys.readouterr().out  # that there is none here
    plot_loss_accs(metrics, fileName="both", show=False)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


GOOD = {"train": {"loss": [1.0], "accuracy": [0.0]}, "test": {"loss": [1.0], "accuracy": [0.0]}, "all_steps": [0]}


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        (lambda args: spec_of(3), "3"),
        (lambda args: spec_of(None), "None"),
        (lambda args: spec_of({"p": 7}), "7"),
        (lambda args: Arguments(wieght_decay=1), "'weight_decay'"),
        (lambda args: setattr(args, "modle", "gpt"), "'model'"),
        (lambda args: spec_of(argparse.Namespace(p=7, lerning_rate=1)), "lerning_rate"),
        (lambda args: spec_of(Arguments(p="x")), "'x'"),
        (lambda args: spec_of(Arguments(beta1=0.9, optimizer="sgd")), "beta1"),
        (lambda args: train_m_models(args), "M"),
        (lambda args: train_m_models(args, M="x"), "'x'"),
        (lambda args: train_m_models(args, M=0), "0"),
        (lambda args: train_m_models(args, seeds=3), "3"),
        (lambda args: train_m_models(args, seeds=[]), "[]"),
        (lambda args: train_m_models(args, seeds=["x"]), "'x'"),
        (lambda args: train(Arguments(device="tpu", log_dir=args.log_dir)), "'tpu'"),
        (lambda args: eval_model(shoal.practical.LSTMLM, [], "cpu"), "Module"),
        (lambda args: plot_loss_accs({}), "all_steps"),
        (lambda args: plot_loss_accs(3), "all_steps"),
        (lambda args: plot_loss_accs(GOOD, multiple_runs=True), "multiple_runs"),
        (lambda args: plot_loss_accs({**GOOD, "all_steps": [[0]]}), "multiple_runs"),
        (lambda args: plot_loss_accs({**GOOD, "all_steps": [0, 1]}), "train"),
        (lambda args: plot_loss_accs({**GOOD, "all_steps": "0"}), "all_steps"),
        (lambda args: plot_loss_accs(GOOD, figsize=3), "figsize"),
        (lambda args: plot_loss_accs(GOOD, figsize=(3, "x")), "figsize"),
        (lambda args: plot_loss_accs(GOOD, linewidth=-1), "linewidth"),
        (lambda args: plot_loss_accs(GOOD, fontsize="x"), "fontsize"),
    ],
)
def test_a_mistake_is_one_line_and_changes_nothing(args, mistake, told):
    with pytest.raises(UserError, match=re.escape(told)) as caught:
        mistake(args)
    assert "\n" not in str(caught.value)
    assert not Path(args.log_dir).exists()


@pytest.mark.parametrize(("loader", "told"), [([], "no batch"), ([3], "batch"), (3, "3")])
def test_a_loader_of_another_form_is_refused(trained, loader, told):
    model = shoal.Lab(trained[1]).records()[0].model()
    with pytest.raises(UserError, match=told):
        eval_model(model, loader, "cpu")
    with pytest.raises(UserError, match="cdua"):
        eval_model(model, [], "cdua:1")


def test_the_page_names_everything_there_is():
    page = (Path(__file__).parents[1] / "docs" / "practical.md").read_text("utf-8")
    table = page.partition("## Every function")[2].partition("## Every experiment")[0]
    assert not [name for name in practical.__all__ if name not in table]
    for place in re.findall(r"`(shoal\.[a-z]+)\.([A-Za-z_]+)", table):
        module = __import__(place[0], fromlist=[place[1]])
        assert hasattr(module, place[1]), place

"""Study of adapters: numbers of its table by hand, and its page from a few steps."""

import adapted
import polars as pl
import pytest

import shoal
from shoal.cli import main
from shoal.studies.adapters import FULL, answers, compared, edges, grids


def curves(ends):
    """Curves of two evaluations: at first 3, and in the end as given by method, rate and seed."""
    rows = [
        {"run": f"{method}{lr}{seed}", "step": step, "valid_loss": loss, "method": method, "lr": lr, "seed": seed}
        for (method, lr, seed), end in ends.items()
        for step, loss in ((0, 3.0), (10, end))
    ]
    return pl.DataFrame(rows)


def test_each_method_stands_with_its_best_rate_and_its_pairs():
    ends = {(FULL, 1e-3, 0): 2.0, (FULL, 1e-3, 1): 2.2, (FULL, 2e-3, 0): 1.0, (FULL, 2e-3, 1): 4.0}
    ends |= {("LoRA", 4e-3, seed): 2.3 + 0.1 * seed for seed in (0, 1)} | {("LoRA", 8e-3, seed): 9.0 for seed in (0, 1)}
    table = compared(curves(ends))
    rows = {row["method"]: row for row in table.iter_rows(named=True)}
    assert [*rows] == [FULL, "LoRA"]
    assert rows[FULL]["lr"] == 1e-3 and rows["LoRA"]["lr"] == 4e-3
    assert rows[FULL]["loss"] == pytest.approx(2.1) and rows[FULL]["first"] == 3.0
    assert rows[FULL]["difference"] is None and rows["LoRA"]["n"] == 2
    assert rows["LoRA"]["difference"] == pytest.approx((0.3 + 0.2) / 2)
    # Student's interval of two pairs: mean ± 12.706 · sd / √2, with sd = 0.1 / √2
    assert rows["LoRA"]["difference_high"] - rows["LoRA"]["difference"] == pytest.approx(12.706 * 0.05, rel=1e-3)
    assert len(answers(table)) == 2
    assert len(edges(table, curves(ends))) == 1
    between = ends | {(FULL, 5e-4, 0): 8.0, ("LoRA", 1e-3, 0): 8.0}
    assert not edges(compared(curves(between)), curves(between))


@pytest.mark.parametrize("quick", [True, False])
def test_ranks_and_bits_are_axes_and_every_method_has_several_rates(quick):
    assert len(grids(quick)) == 4
    for grid in grids(quick):
        assert len(grid.axes["lr"]) >= 2 and len(grid.axes["seed"]) >= 3
    assert grids(quick)[1].settings["lora_width"] == max(grids(quick)[1].axes["lora_rank"])


@pytest.mark.slow
def test_the_page_shows_every_method(tmp_path):
    text = str(adapted.text_file(tmp_path))
    small = {"num_layers": 1, "embedding_size": 8, "num_heads": 2, "context_length": 8, "tokenizer": "bytes"}
    spec = shoal.RunSpec(task="text", text=text, model="gpt", **small, n_steps=2, seed=0, train_batch_size=4)
    records = shoal.train([spec], tmp_path / "lab", engine="plain", workers=1)
    (base,) = records.cohort_of(spec.id).models(spec.id).values()
    words = ["study", "run", "adapters", "--quick", "--seeds", "2", "--text", text, "--base-model", str(base)]
    how = ["--context-length", "8", "--n-steps", "4", "--eval-period", "2", "--train-batch-size", "2"]
    assert main([*words, *how, "--lab", str(tmp_path / "lab"), "--workers", "1"]) == 0
    (page,) = (tmp_path / "lab" / "reports").rglob("report.md")
    content = page.read_text(encoding="utf-8")
    for method in (FULL, "LoRA, rank 1", "LoRA, rank 4", "absmax of 2 bits", "nf4", "fp4"):
        assert method in content


def test_a_run_that_has_not_come_to_the_end_has_no_loss_in_the_end():
    ends = {(FULL, 1e-3, seed): 1.0 + 0.1 * seed for seed in (0, 1)}
    ends |= {("LoRA", lr, seed): 100 * lr + 0.1 * seed for lr in (1e-2, 2e-2) for seed in (0, 1)}
    begun = curves({("LoRA", 2e-2, 9): 0.0}).filter(pl.col("step") == 0)  # whose first loss, 3, is no last one
    early = begun.with_columns(valid_loss=pl.lit(0.1))
    assert compared(pl.concat([curves(ends), early])).equals(compared(curves(ends)))


def test_a_method_that_is_better_is_below():
    ends = {(FULL, 1e-3, seed): 1.3 + 0.1 * seed for seed in range(3)}
    ends |= {("LoRA", 1e-3, seed): 1.2 + 0.1 * seed + 0.01 * (seed % 2) for seed in range(3)}
    (line,) = [line for line in answers(compared(curves(ends))) if line.startswith("LoRA")]
    assert line.startswith("LoRA: 0.0967 [") and "nats per token below full fine-tuning" in line and "−" not in line

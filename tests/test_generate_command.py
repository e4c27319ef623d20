"""``shoal generate`` with beams: what is found, what is saved, where it ends, its tree, and what it refuses."""

import itertools
import json
import re
from pathlib import Path

import pytest
import torch
from searching import all_texts

import shoal
from shoal.cli import main
from shoal.decoding import Beam, Sampling, choice
from shoal.decoding.text import generate_texts
from shoal.decoding.text_search import search_texts
from shoal.errors import UserError
from shoal.registry import MODELS
from shoal.tasks.settings import Sizes
from shoal.tasks.text.tokenizers import CharTokenizer, from_json

LETTERS = CharTokenizer("\n abc")
SMALL = {"model": "gpt", "num_layers": 1, "num_heads": 2, "embedding_size": 8, "context_length": 12, "lr": 3e-2}
SMALL |= {"train_batch_size": 8, "n_steps": 13, "eval_period": 4, "save_model_step": 4, "positions": "learned"}
HEAD = re.compile(r"── run (\w{8}), (\d) of (\d): log p (-?[\d.]+)(?:, score (\S+))?, (\d+) tokens?(, ended|, cut)?")


def some(family, R=2, context=8, **settings):
    settings |= {"num_heads": 2} if family == "gpt" else {}
    part = MODELS[family](num_layers=1, embedding_size=8, **settings)
    models = {}
    for seed in range(R):
        model = part.build(Sizes(LETTERS.vocabulary_size, context)).double().eval()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                is_scale = parameter.ndim == 1 and name.endswith("weight")
                parameter.normal_(is_scale, 1.0 if parameter.ndim > 1 else 0.1, generator=generator)
        models[f"run{seed}"] = model
    return models


@pytest.mark.parametrize("family", ["gpt", "lstm"])
@pytest.mark.parametrize("end", [None, 0])
def test_a_beam_of_all_texts_finds_all_texts_after_ragged_prompts(family, end):
    models, prompts, T, V = some(family), ["ab", "c", "a bc"], 3, 5
    found = search_texts(models, LETTERS, prompts, T, Beam(V**T, stop="n_best"), end=end)
    assert [(own.prompt, own.run) for own in found] == list(itertools.product(prompts, models))
    for own in found:
        start = LETTERS.encode(own.prompt).tolist()

        def after(text, start=start, model=models[own.run]):
            with torch.no_grad():
                return model(torch.tensor([[*start, *text]]))[0][0, -1].log_softmax(-1).tolist()

        every = all_texts(after, V, T, end)
        assert [one.text for one in own.found] == [LETTERS.decode(text) for _, text, _ in every]
        assert [one.log_p for one in own.found] == pytest.approx([log_p for *_, log_p in every], abs=1e-9)
        assert [one.finished for one in own.found] == [text[-1] == end for _, text, _ in every]
        assert [one.length for one in own.found] == [len(text) for _, text, _ in every]


def test_a_beam_goes_to_the_end_of_the_context_and_no_further():
    models = some("gpt", context=8)
    (whole, _) = search_texts(models, LETTERS, ["abc"], None, Beam(2))
    assert whole.steps + whole.saved == 6  # the last token is not read
    with pytest.raises(UserError, match="6 new tokens fit"):
        search_texts(models, LETTERS, ["abc", "a"], 7, Beam(2))
    for prompt, said in {"abcabcab": "prompt of 8, one new token fits", "abcabcabc": "9, no new token fits"}.items():
        with pytest.raises(UserError, match=f"{said}, got max_new_tokens=2;"):
            search_texts(models, LETTERS, [prompt], 2, Beam(2))
    with pytest.raises(UserError, match="no new token fits;"):
        search_texts(models, LETTERS, ["abcabcabc"], None, Beam(2))
    assert search_texts(some("lstm", context=8), LETTERS, ["abc"], 20, Beam(2))[0].steps == 20


@pytest.mark.parametrize("family", ["gpt", "lstm"])
def test_a_model_that_diverged_is_named(family):
    models = some(family, 3)
    with torch.no_grad():
        for parameter in models["run1"].parameters():
            parameter.fill_(torch.nan)
    for sampling in (None, Sampling(1.0), Sampling(1.0, 2, 0.9)):
        with pytest.raises(UserError, match="run run1 gives numbers that are not finite"):
            generate_texts(models, LETTERS, ["ab", "c"], 3, sampling)
    with pytest.raises(UserError, match="run run1 gives numbers that are not finite"):
        search_texts(models, LETTERS, ["ab", "c"], 3, Beam(2))


def test_models_search_the_same_in_groups_of_any_size_and_one_that_diverges_on_the_way_is_named(monkeypatch):
    models, found = some("gpt", 5, positions="learned"), []
    for size in (5, 2, 1):
        monkeypatch.setattr(choice, "members_at_once", lambda *_, size=size: size)
        found.append(search_texts(models, LETTERS, ["ab", "c"], 4, Beam(3), end=0, record=True))
    for one, *others in zip(*found, strict=True):
        for other in others:
            assert (one.run, one.prompt, one.steps, one.saved) == (other.run, other.prompt, other.steps, other.saved)
            assert [(own.text, own.finished) for own in one.found] == [(own.text, own.finished) for own in other.found]
            assert [own.score for own in one.found] == pytest.approx([own.score for own in other.found], abs=1e-9)
            assert one.tree is not None and other.tree is not None and one.tree is not other.tree
    with torch.no_grad():
        models["run3"].embedding.positions.weight[4:] = torch.nan  # of the third new token
    for size in (5, 2, 1):
        monkeypatch.setattr(choice, "members_at_once", lambda *_, size=size: size)
        with pytest.raises(UserError, match="run run3 gives numbers that are not finite"):
            search_texts(models, LETTERS, ["ab", "c"], 6, Beam(2))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    top = tmp_path_factory.mktemp("generate")
    (top / "text.txt").write_text("the cat sat on the mat.\nthe dog saw the cat.\n" * 20, newline="\n")
    first = shoal.RunSpec(task="text", text=str(top / "text.txt"), **SMALL)
    (top / "other.txt").write_text("the end of all the songs " * 30)
    other = shoal.RunSpec(task="text", text=str(top / "other.txt"), **SMALL)
    specs = [first, first.replace(seed=1), first.replace(num_heads=1), other]
    shoal.train(specs, top / "lab", workers=1)
    return top, [spec.id for spec in specs]


def asked(trained, capsys, *words, code=0):
    top, runs = trained
    assert main(["generate", *(word.format(*runs) for word in words), "--lab", str(top / "lab")]) == code
    return capsys.readouterr()


def heads(out):
    return [found.groups() for found in map(HEAD.match, out.splitlines()) if found]


def test_hypotheses_are_printed_with_log_p_and_what_was_saved(trained, capsys):
    words = ["{0}", "--prompt", "the ", "--beams", "3", "--stop", "n_best", "--max-new-tokens", "8"]
    out = asked(trained, capsys, *words, "--end", " ").out
    found = heads(out)
    assert [(rank, several) for _, rank, several, *_ in found] == [(str(n), "3") for n in (1, 2, 3)]
    log_ps = [float(own[3]) for own in found]
    assert log_ps == sorted(log_ps, reverse=True)
    records = shoal.Lab(trained[0] / "lab").records([trained[1][0]])
    model, run = records.model(trained[1][0]), trained[1][0]
    tokenizer = from_json(records.kept(run)["tokenizer"])
    end = int(tokenizer.encode(" ")[0])
    (search,) = search_texts({run: model}, tokenizer, ["the "], 8, Beam(3, stop="n_best"), end=end)
    assert [f"{own.log_p:.2f}" for own in search.found] == [own[3] for own in found]
    assert [", ended" if own.finished else ", cut" for own in search.found] == [own[6] for own in found]
    assert f"{search.steps} of {search.steps + search.saved} steps" in out
    for own in search.found:
        assert "the " + own.text in out


def test_runs_of_any_shape_and_vocabulary_go_on_together_and_each_as_alone(trained, capsys):
    for words in (["--beams", "2", "--max-new-tokens", "6"], ["--temperature", "1", "--max-new-tokens", "30"], []):
        alone = [asked(trained, capsys, f"{{{n}}}", "--prompt", "the", *words).out.splitlines() for n in range(4)]
        together = asked(trained, capsys, "{3}", "{2}", "{0}", "{1}", "--prompt", "the", *words).out.splitlines()
        for own in alone:
            mine = [line for line in own if line.startswith("──")]
            assert mine and set(mine) <= set(together)


def test_an_end_ends_samples_too(trained, capsys):
    out = asked(trained, capsys, "{0}", "--prompt", "the cat", "--end", r"\n", "--samples", "8").out
    texts = re.split(r"── .*\n", out)[1:]
    assert len(texts) == 8
    for text in texts:
        assert text.count("\n") <= 2 and (text.count("\n") == 1 or text.endswith("\n\n"))


def test_steps_and_averages_are_other_models_and_are_told_of(trained, capsys):
    words = ["{0}", "--prompt", "the", "--beams", "2", "--max-new-tokens", "5"]
    found = [
        asked(trained, capsys, *words, *more) for more in ([], ["--step", "4"], ["--step", "12", "--average", "2"])
    ]
    assert len({own.out for own in found}) == 3
    assert [bool(own.err) for own in found] == [False, False, True]
    assert "8, 12" in found[2].err


def test_a_tree_as_data_and_as_text(trained, capsys, tmp_path):
    words = [
        "{0}",
        "--prompt",
        "the",
        "--beams",
        "2",
        "--max-new-tokens",
        "9",
        "--end",
        " ",
        "--stop",
        "none",
        "--tree",
    ]
    asked(trained, capsys, *words, str(tmp_path / "tree.json"))
    found = asked(trained, capsys, *words, str(tmp_path / "tree.txt")).out
    said = json.loads((tmp_path / "tree.json").read_text("utf-8"))
    done = sorted(
        (own for own in said["candidates"] if own["fate"] in ("finished", "cut")), key=lambda own: -own["score"]
    )
    assert [f"{own['log_p']:.2f}" for own in done[:2]] == [own[3] for own in heads(found)]
    assert {own["name"] for own in said["candidates"]} <= {'" "', r"\n", *"thecatsonmdgw."}
    lines = (tmp_path / "tree.txt").read_text("utf-8").splitlines()
    assert lines[0] == "'the'" and len(lines) == 2 + len(said["candidates"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("{0} --beams 2 --temperature 1", "--temperature does not apply to --beams 2"),
        ("{0} --beams 2 --top-k 3", "--top-k does not apply"),
        ("{0} --beams 2 --top-p 0.5", "--top-p does not apply"),
        ("{0} --beams 2 --samples 2", "--samples does not apply"),
        ("{0} --beams 2 --seed 1", "--seed does not apply"),
        ("{0} --stop first", "--stop does not apply to greedy search"),
        ("{0} --tree tree.txt", "--tree does not apply to greedy search"),
        ("{0} {1} --beams 2 --tree tree.txt", "2 runs and 1 prompts"),
        ("{0} --beams 2 --tree tree.gif", "tree.gif"),
        ("{0} --beams 2 --tree nowhere/tree.txt", "'nowhere'"),
        ("{0} --beams 0", "from 1 to 10,000, got 0"),
        ("{0} --beams 100000 --max-new-tokens 3", "from 1 to 10,000, got 100000"),
        ("{0} --beams 400 --max-new-tokens 1", "wider than there are texts"),
        ("{0} --beams 2 --max-new-tokens 0", "max_new_tokens must be an integer of at least 1, got 0"),
        ("{0} --beams 2 --max-new-tokens 11", "10 new tokens fit, got max_new_tokens=11"),
        ("{0} --beams 2 --length-penalty nan", "got nan"),
        ("{0} --beams 2 --end th", "one token"),
        ("{0} --beams 2 --end Z", "'Z'"),
        ("{0} --end =", "'='"),
        ("{0} --step bset", "did you mean 'best'"),
        ("{0} --step 5", "no model of step 5"),
        ("{0} --average 9", "not 9"),
    ],
)
def test_a_wrong_request_is_one_line(trained, capsys, monkeypatch, tmp_path, words, said):
    monkeypatch.chdir(tmp_path)
    out, err = asked(trained, capsys, *words.split(), "--prompt", "the", code=2)
    assert out == "" and err.count("\n") == 1 and re.search(said, err)
    assert not list(Path(tmp_path).iterdir())


def test_a_tree_writes_over_nothing_of_a_lab(trained, capsys):
    top, _ = trained
    place = next((top / "lab" / "cohorts").iterdir()) / "cohort.json"
    before = place.read_bytes()
    _, err = asked(trained, capsys, "{0}", "--prompt", "the", "--beams", "2", "--tree", str(place), code=2)
    assert err.count("\n") == 1 and "is in the lab" in err
    assert place.read_bytes() == before

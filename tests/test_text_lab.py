"""A text in the engine and the lab: windows, what is drawn, what is kept, resuming, and the command line."""

import copy
import math
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import shoal
from shoal.cli import main
from shoal.errors import LabError, UserError
from shoal.lab.check import examine
from shoal.lab.files import read_json, write_json
from shoal.tasks.build import build_task
from shoal.tasks.text import settings as text_settings
from shoal.tasks.text.data import BlockSampler, windows
from shoal.tasks.text.ngram import fit_ngram
from shoal.training.plan import Cohort
from shoal.training.stack import Stack
from shoal.training.step import evaluate, train_steps

CPU = torch.device("cpu")
SENTENCE = "the quick brown fox jumps over the lazy dog. "
SMALL = {"model": "gpt", "num_layers": 1, "num_heads": 2, "embedding_size": 8, "context_length": 8, "lr": 1e-2}
SMALL |= {"train_batch_size": 4, "n_steps": 6, "eval_period": 3, "warmup_steps": 1, "positions": "learned"}


def text_file(folder, content=SENTENCE * 20, name="text.txt"):
    path = folder / name
    path.write_text(content)
    return str(path)


def tiny(folder, **changes):
    return shoal.RunSpec(task="text", text=text_file(folder), **{**SMALL, **changes})


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 60), st.integers(1, 12), st.data())
def test_windows_score_every_token_but_the_first_once(n, context, data):
    stride = data.draw(st.integers(1, context))
    begin = data.draw(st.integers(0, 5))
    scored = []
    for start, first, last in windows(begin, begin + n, context, stride).tolist():
        assert begin <= start and 0 <= first < last <= context
        scored += [start + 1 + place for place in range(first, last)]
        seen = first + 1  # tokens before the first that is scored
        assert start == begin or seen >= min(context - stride + 1, start - begin + 1)
    assert sorted(scored) == list(range(begin + 1, begin + n))


@pytest.mark.parametrize("stride", [None, 3])
def test_an_evaluation_is_a_loop_over_all_windows_whatever_the_batch_size(tmp_path, stride):
    found = []
    for size in (1, 7, 4096):
        spec = tiny(tmp_path, eval_stride=stride, eval_batch_size=size)
        found.append(evaluate(Stack(Cohort((spec,)), CPU), {})["valid_loss"].item())
    assert found[0] == pytest.approx(found[1], rel=1e-6) == pytest.approx(found[2], rel=1e-6)
    data, model = spec.task_part.data(), Stack(Cohort((spec,)), CPU).built_model(0)
    total = n = 0
    for start, first, last in windows(len(data.train), len(data.tokens), 8, spec.eval_stride).tolist():
        inputs = data.tokens[start : start + 8]
        log_p = model(inputs.unsqueeze(0))[0][0].log_softmax(-1)
        for place in range(first, last):
            total -= log_p[place, data.tokens[start + place + 1]].item()
            n += 1
    assert n == len(data.valid) - 1
    assert found[0] == pytest.approx(total / n, rel=1e-5)


def test_members_share_one_text_and_draw_their_own_windows(tmp_path):
    stack = Stack(Cohort((tiny(tmp_path), tiny(tmp_path, seed=1))), CPU)
    assert stack.tensors["tokens"].stride(0) == 0
    stack.at += 1
    drawn, counts = stack.draw()
    assert counts.all() and (drawn < stack.n_drawn.unsqueeze(1)).all()
    assert not torch.equal(drawn[0], drawn[1])


def test_a_member_alone_draws_what_it_draws_in_a_stack(tmp_path):
    specs = [tiny(tmp_path, seed=seed) for seed in (3, 4, 5)]
    together = Stack(Cohort(tuple(specs)), CPU)
    train_steps(together, 4)
    for place, spec in enumerate(specs):
        alone = Stack(Cohort((spec,)), CPU)
        train_steps(alone, 4)
        assert torch.allclose(alone.theta[0], together.theta[place], atol=1e-6)
        assert torch.equal(alone.draw()[0][0], together.draw()[0][place])


@settings(max_examples=30, deadline=None)
@given(st.integers(8, 200), st.integers(1, 8), st.integers(1, 9), st.integers(0, 2**31))
def test_a_pass_over_blocks_takes_each_once(n, context, batch, seed):
    keys, sizes = torch.tensor([seed]), torch.tensor([n])
    sampler = BlockSampler(keys, sizes, batch, context)
    for epoch in range(2):
        taken = []
        for step in range(int(sampler.batches)):
            now = torch.tensor([epoch * int(sampler.batches) + step])
            sampler.prepare(now)
            places, counts = sampler(now + 1)
            taken += places[counts].tolist()
        assert all(0 <= place < n for place in taken)
        assert len(taken) == max(1, n // context)
        assert len({place // context - taken[0] // context for place in taken}) == len(taken) or n < context
        assert len({place % context for place in taken}) == 1


def test_an_untrained_model_is_as_good_as_chance(tmp_path):
    spec = tiny(tmp_path, initialisation="gpt2", norm_position="pre")
    loss = evaluate(Stack(Cohort((spec,)), CPU), {})["valid_loss"].item()
    assert loss == pytest.approx(math.log(spec.vocabulary_size), abs=0.1)


def test_a_text_is_known_by_its_content(tmp_path):
    one = tiny(tmp_path)
    (tmp_path / "other").mkdir()
    moved = one.replace(text=text_file(tmp_path / "other", name="moved.txt"))
    assert moved.id == one.id and moved.text != one.text
    assert one.replace(text=text_file(tmp_path, SENTENCE * 21, "longer.txt")).id != one.id
    assert "text" not in one.canonical() and one.canonical()["text_key"] == one.text_key


def test_training_on_another_text_of_the_same_name_is_refused(tmp_path):
    spec = tiny(tmp_path)
    text_file(tmp_path, "xyz" * 300)
    with pytest.raises(UserError, match="not the one that the run began with"):
        build_task(spec)


def other_text(folder):
    return text_file(folder, "zyxw vutsrq " * 60, "other.txt")


def same_run(one, two):
    return one.id == two.id and one.dump() == two.dump()


COPIES = [lambda spec: shoal.RunSpec.restored(spec.dump()), copy.deepcopy, lambda spec: spec]  # as processes pass it on
CHANGES = [
    {"tokenizer": "bytes"},
    {"seed": 3},
    {"n_steps": 50},
    {"lr_schedule": "constant"},
    {"tokenizer": "bpe", "vocabulary_size": 260},
]


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("changes", [*CHANGES, {"text": None}])
def test_what_was_found_out_from_a_text_is_found_out_again_for_another_run(tmp_path, copied, changes):
    chosen = {"task": "text", "text": text_file(tmp_path), "context_length": 8}
    changes = {"text": other_text(tmp_path)} if "text" in changes else changes
    own = copied(shoal.RunSpec(**chosen))
    direct = shoal.RunSpec(**{**chosen, **changes})
    assert same_run(own.replace(**changes), direct)
    assert same_run(shoal.grid(own, **{name: [value] for name, value in changes.items()})[0], direct)


@pytest.mark.parametrize("copied", COPIES)
def test_a_new_text_is_checked_as_the_first_was(tmp_path, copied):
    own = copied(tiny(tmp_path, context_length=300))
    with pytest.raises(UserError, match="context_length must be below"):
        own.replace(text=text_file(tmp_path, SENTENCE * 3, "short.txt"))
    with pytest.raises(UserError, match="vocabulary_size=9 does not apply"):
        own.replace(vocabulary_size=9)


def test_a_size_of_byte_pairs_that_was_asked_for_is_passed_on(tmp_path):
    own = shoal.RunSpec.restored(tiny(tmp_path, tokenizer="bpe", vocabulary_size=262).dump())
    assert own.replace(seed=1).vocabulary_size == 262


@pytest.mark.parametrize("copied", COPIES[:2])
def test_a_run_on_record_needs_no_text(tmp_path, copied, monkeypatch):
    spec = tiny(tmp_path)
    Path(spec.text[0]).unlink()
    monkeypatch.setattr(text_settings, "read_corpus", lambda paths: pytest.fail(f"reads {paths}"))
    assert same_run(copied(spec), spec)
    with pytest.raises(UserError, match="text_key is not on record"):
        shoal.RunSpec.restored({**spec.dump(), "text_key": None})


def test_a_text_is_that_which_lies_there_now(tmp_path, monkeypatch):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        text_file(tmp_path / folder, folder * 200)
    found = []
    for folder in ("one", "two"):
        monkeypatch.chdir(tmp_path / folder)
        found.append(shoal.RunSpec(task="text", text="text.txt", context_length=8))
    assert found[0].id != found[1].id
    assert [Path(spec.text[0]).parent.name for spec in found] == ["one", "two"]
    text_file(tmp_path / "two", "three" * 200)
    assert shoal.RunSpec(task="text", text="text.txt", context_length=8).id not in {spec.id for spec in found}


def test_commas_join_paths_only_where_they_were_written(tmp_path):
    for name in ("a", "b", "c,d"):
        text_file(tmp_path, name * 300, name)
    one, both = str(tmp_path / "c,d"), f"{tmp_path / 'a'},{tmp_path / 'b'}"
    spec = shoal.RunSpec(task="text", text=one, context_length=8)
    (tmp_path / "c,d").unlink()
    for again in (shoal.RunSpec.restored(spec.dump()), copy.deepcopy(spec)):
        assert again.text == (one,)
    assert len(shoal.RunSpec(task="text", text=both, context_length=8).text) == 2
    with pytest.raises(UserError, match="there is no file"):
        shoal.RunSpec(task="text", text=[both], context_length=8)


@pytest.mark.parametrize("text", ["a" * 300, "a\0b", ["a" * 300], "", [], 5, [5], None])
def test_a_path_that_is_none_is_told_of_in_one_line(text):
    with pytest.raises(UserError) as error:
        shoal.RunSpec(task="text", text=text)
    assert "\n" not in str(error.value)


def test_a_lab_is_listed_without_looking_for_its_texts(lab, monkeypatch):
    def looked(*_):
        pytest.fail("the file system is asked")

    monkeypatch.setattr(text_settings, "read_corpus", looked)
    monkeypatch.setattr(text_settings, "_is_there", looked)
    for path in lab[0].glob("cohorts/*/cohort.json"):
        manifest = read_json(path)
        manifest["members"][0]["spec"]["text"] = ["/" + "a" * 300]
        write_json(path, manifest)
    records = shoal.Lab(lab[0]).records()
    assert len(records.runs()) == len(records) and records.measures() == text_settings.MEASURES


@pytest.mark.parametrize("key", ["abc", "A" * 16, "0" * 17, "0123456789abcdef\n"])
def test_a_key_that_no_text_has_is_refused(tmp_path, key):
    for more in ({}, {"text": text_file(tmp_path)}):
        with pytest.raises(UserError, match="text_key must be 16 hexadecimal digits"):
            shoal.RunSpec(task="text", text_key=key, **more)


def test_a_key_is_held_to_its_text(tmp_path):
    one, other = tiny(tmp_path), other_text(tmp_path)
    asked = {"vocabulary_size": one.vocabulary_size, "text_key": one.text_key}
    assert same_run(one.replace(**asked), one)
    for refused in ({"text_key": "0" * 16, "vocabulary_size": 5}, {"text": other, **asked}):
        with pytest.raises(UserError, match="text_key must be that of the text"):
            one.replace(**refused)
    with pytest.raises(UserError, match="alone does not give the vocabulary size"):
        shoal.RunSpec(task="text", text_key=one.text_key)


def test_what_is_found_out_has_no_flag(tmp_path, capsys):
    words = ["train", "--task", "text", "--text", text_file(tmp_path), "--lab", str(tmp_path / "lab")]
    assert main([*words, "--text-key", "0" * 16]) == 2
    error = capsys.readouterr().err
    assert "--text-key cannot be given" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("changes", "warmup", "floor"),
    [
        ({}, 100, 0.1),
        ({"n_steps": 100}, 100, 0.1),
        ({"n_steps": 50}, 5, 0.1),
        ({"n_steps": "50"}, 5, 0.1),
        ({"n_steps": 5}, 0, 0.1),
        ({"n_steps": 100, "warmup_from_zero": "true"}, 10, 0.1),
        ({"n_steps": 5, "warmup_from_zero": True}, 1, 0.1),
        ({"lr_schedule": "constant"}, 100, 0.0),
        ({"n_steps": 50, "warmup_steps": 7, "lr_floor": 0.2}, 7, 0.2),
    ],
)
def test_what_a_task_suggests_gives_way_to_what_is_asked_for(tmp_path, changes, warmup, floor):
    spec = shoal.RunSpec(task="text", text=text_file(tmp_path), context_length=8, **changes)
    assert (spec.warmup_steps, spec.lr_floor) == (warmup, floor)
    assert shoal.RunSpec.restored(spec.dump()).id == spec.id
    assert spec.replace(warmup_steps=warmup, lr_floor=floor).id == spec.id
    for refused in ({"n_steps": 50, "warmup_steps": 51}, {"lr_schedule": "constant", "lr_floor": 0.2}):
        with pytest.raises(UserError, match=r"warmup_steps|lr_floor"):
            spec.replace(**refused)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    top = tmp_path_factory.mktemp("text")
    records = shoal.train([tiny(top), tiny(top, seed=7)], top / "lab", workers=1)
    return top, records.ids


@pytest.fixture
def lab(trained, tmp_path):
    shutil.copytree(trained[0] / "lab", tmp_path / "lab")
    return tmp_path / "lab", trained[1][0]


@pytest.mark.parametrize("is_lost", [True, False])
def test_a_tokenizer_that_is_lost_or_changed_is_found_and_made_again(lab, is_lost):
    path, run = lab
    whole = shoal.Lab(path).records([run]).kept(run)
    (file,) = path.glob("cohorts/*/task.json")
    if is_lost:
        file.unlink()
    else:
        file.write_text(file.read_text().replace("chars", "charz"))
    with pytest.raises(LabError, match=r"task\.json"):
        shoal.Lab(path).records([run]).kept(run)
    (finding,) = examine(path)
    assert finding.is_damage and str(file) in finding.what
    finding.mend()
    assert shoal.Lab(path).records([run]).kept(run) == whole
    assert not examine(path)


def test_the_vocabulary_is_part_of_the_model(trained, tmp_path, capsys):
    """nanoGPT#273: another text in the old one's place gives an error or gibberish there."""
    top, (run, _) = tmp_path / "here", trained[1]
    shutil.copytree(trained[0], top)
    text_file(top, "0123456789" * 90)
    assert main(["generate", run, "--prompt", "the", "--max-new-tokens", "20", "--lab", str(top / "lab")]) == 0
    assert not set("0123456789") & set(capsys.readouterr().out.split("by its own probabilities\n")[1])


def test_samples_hang_on_run_prompt_number_and_seed_alone(trained, capsys):
    lab, (one, other) = str(trained[0] / "lab"), trained[1]

    def texts(*words):
        assert main(["generate", *words, "--temperature", "1", "--max-new-tokens", "12", "--lab", lab]) == 0
        return capsys.readouterr().out

    alone = texts(one, "--prompt", "fox")
    both = texts(other, one, "--prompt", "the dog", "fox", "--samples", "2")
    assert alone.split("\n")[1] in both
    assert texts(one, "--prompt", "fox") == alone != texts(one, "--prompt", "fox", "--seed", "1")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--prompt Zebra", "'Z' .*line 1, column 1"),
        ("--prompt the --temperature 0", r"temperature must be from 1.2e-38 to 3.4e\+38, which float32 holds, got 0"),
        ("--prompt the --top-k 0", "top_k must be an integer of at least 1, got 0"),
        ("--prompt the --top-p 1.5", "top_p must be in .*, got 1.5"),
        ("--prompt the --seed -1", "seed must be an integer in .*, got -1"),
        ("--prompt the --samples 0", "samples must be an integer of at least 1, got 0"),
        ("--prompt the --samples 100000000", "1 prompts × 100000000 samples .*at most 10,000,000 are written at once"),
        ("--prompt the --max-new-tokens 0", "max_new_tokens must be an integer of at least 1, got 0"),
        ("", "--prompt TEXT"),
    ],
)
def test_a_wrong_request_for_a_text_is_one_line(trained, capsys, words, said):
    assert main(["generate", trained[1][0], *words.split(), "--lab", str(trained[0] / "lab")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(error)


def test_equations_make_no_text(tmp_path, capsys):
    equations = shoal.RunSpec(p=5, embedding_size=8, num_layers=1, n_steps=1)
    shoal.train(equations, tmp_path / "lab", workers=1)
    assert main(["generate", equations.id, "--prompt", "1", "--lab", str(tmp_path / "lab")]) == 2
    assert "task arithmetic" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"context_length": 811}, "context_length must be below the 810 tokens of the training split, got 811"),
        ({"valid_share": 0.001}, "leaves .* to validate on"),
        ({"eval_stride": 9}, "eval_stride must be at most the context length"),
        ({"vocabulary_size": 12}, "vocabulary_size=12 does not apply to tokenizer 'chars'"),
        ({"tokenizer": "bpe", "vocabulary_size": 255}, "256"),
        ({"tokenizer": "bpe", "vocabulary_size": 100_000}, "100,?000"),
        ({"tokenizer": "wrods"}, "unknown tokenizer 'wrods'.*bytes"),
        ({"stop_after_generalizing": 5}, "does not apply to task 'text'"),
        ({"precision": "tf32"}, "does not apply to task 'text'"),
        ({"p": 7}, "p=7 does not apply to task 'text'; it applies to arithmetic"),
    ],
)
def test_a_text_that_cannot_be_learned_is_refused(tmp_path, changes, said):
    with pytest.raises(UserError, match=said):
        tiny(tmp_path, **changes)


def test_the_ngram_beside_a_text_is_scored_on_the_tokens_of_the_models(tmp_path):
    spec = tiny(tmp_path)
    kept, data = spec.task_part.kept(), spec.task_part.data()
    fitted = fit_ngram(data.train.numpy(), spec.vocabulary_size, 8).nats(data.valid.numpy())[:, 1:].mean(1)
    assert kept["ngram"]["nats_per_token"] == pytest.approx(fitted.min(), abs=1e-6)
    assert kept["counts"]["tokens"] == len(data.valid) - 1 == kept["counts"]["characters"]

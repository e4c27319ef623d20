"""Translation, Pig Latin and sorting: their data, their splits, and mistakes in them."""

import copy
import gzip
from collections import Counter
from math import comb
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pair_files import ENGLISH, english, parallel, sentences

import shoal
from shoal.errors import UserError
from shoal.tasks.build import build_task
from shoal.tasks.pairs.codec import codec_of
from shoal.tasks.pairs.vocabulary import EOS, PAD, UNK, learn_vocabulary
from shoal.tasks.pig_latin.data import load_words
from shoal.tasks.pig_latin.rules import RULES, pig_latin, rule_of, words_of
from shoal.tasks.settings import Sizes
from shoal.tasks.sorting.data import choose_multisets, draw_numbers
from shoal.tasks.sorting.settings import Sorting
from shoal.tasks.translation import settings as translation_settings
from shoal.tasks.translation.corpus import FILES, count_lines, lines_of
from shoal.tasks.translation.settings import Translation

MODEL = {"model": "gpt", "num_layers": 1, "num_heads": 2, "embedding_size": 8}
TOKENIZERS = {"words": {"min_frequency": 1}, "bpe": {"vocabulary_size": 270}, "chars": {}}


def part(folder, **changes):
    lines = {
        name: changes.pop(name) for name in ("source", "target", "valid_source", "valid_target") if name in changes
    }
    return Translation(**{**parallel(folder, lines=lines), **changes})


# translation


@given(st.text(alphabet="ab\n\r\x0b\x0c\x1c\x85\u2028\u2029 "))
def test_lines_end_with_a_line_feed_alone(text):
    lines = lines_of(text)
    assert len(lines) == text.count("\n") + (text != "" and not text.endswith("\n"))
    assert "\n".join(lines) == text.removesuffix("\n").replace("\r\n", "\n").removesuffix("\r") or "\r" in text


def test_files_with_and_without_a_last_line_feed_have_as_many_lines(tmp_path):
    """M2: 2 and 2."""
    paths = parallel(tmp_path)
    for name, content in (("source", "ein\nder\n"), ("target", "a\nthe")):
        Path(paths[name]).write_text(content)
    assert Translation(**paths, min_frequency=1).train_pairs == 2


@pytest.mark.parametrize(("names", "n"), [(("source", "target"), 3), (("valid_source", "valid_target"), 1)])
def test_another_number_of_lines_is_refused_with_both_counts_and_names(tmp_path, names, n):
    """M2."""
    lines = dict(zip(names, (["a"] * n, ["a"] * 2), strict=True))
    with pytest.raises(UserError) as error:
        part(tmp_path, **lines)
    said = str(error.value)
    assert f"{n} in" in said and "2 in" in said and all(f"{name}.txt" in said for name in names) and "\n" not in said


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("vocabularies", ["joint", "separate"])
def test_pairs_come_back_from_what_is_kept(tmp_path, tokenizer, vocabularies):
    spec = part(tmp_path, tokenizer=tokenizer, vocabularies=vocabularies, **TOKENIZERS[tokenizer])
    codec = codec_of(spec.kept())
    pairs, (german, text) = spec.data().pairs, sentences(52)
    sizes = spec.sizes()
    assert (sizes.source_vocabulary_size, sizes.vocabulary_size) == (codec.source.size, codec.target.size)
    for place in range(52):
        assert codec.decode_source(pairs.source[place]) == german[place]
        assert codec.decode_target(pairs.target[place]) == text[place]
    tokens, seen = codec.encode_sources(german)
    assert torch.equal(tokens, pairs.source) and torch.equal(seen.sum(1), pairs.source_length)
    assert torch.equal(codec.encode_targets(text)[0], pairs.target)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_vocabularies_are_those_of_the_training_files_alone(tmp_path, tokenizer):
    own = TOKENIZERS[tokenizer]
    spec = part(tmp_path, tokenizer=tokenizer, vocabularies="separate", **own, valid_source=["Ωμέγα"] * 12)
    codec = spec.data().codec
    for name, vocabulary in (("source", codec.source), ("target", codec.target)):
        lines = lines_of(Path(getattr(spec, name)).read_text())
        made = learn_vocabulary(tokenizer, lines, own.get("vocabulary_size"), own.get("min_frequency"))
        assert made.key == vocabulary.key
    row = spec.data().pairs.source[-1].tolist()
    assert (UNK in row) == (tokenizer != "bpe")


def test_what_is_left_out_and_what_comes_twice_is_counted(tmp_path):
    long = "ein der " * 9
    lines = {"source": ["ein", "", "der", long, "hund"], "target": ["a", "a", "the", "a", "\t"]}
    lines |= {"valid_source": ["ein", "kind", long, "", "mann"], "valid_target": ["a", "child", "a b", "", "man"]}
    for too_long, (n_train, n_valid) in {"drop": (2, 3), "cut": (3, 4)}.items():
        spec = part(tmp_path, min_frequency=1, max_length=4, too_long=too_long, lowercase=True, **lines)
        data = spec.data()
        assert (spec.train_pairs, spec.valid_pairs) == (n_train, n_valid) == (data.n_train, data.n_valid)
        wanted = {"train_empty": 2, "train_long": 1, "valid_empty": 1, "valid_long": 1}
        assert data.told == {**wanted, "duplicates": 1 if too_long == "drop" else 2}
        assert data.scored_lines == ([0, 1, 4] if too_long == "drop" else [0, 1, 2, 4])
        assert data.counts["tokens"] == int(data.pairs.target_length[n_train:].sum())
        assert data.counts["words"] == n_valid + (too_long == "cut")
        told, filled = Translation.beside(spec.kept())
        share = spec.buckets().real_share()["both"]
        assert f"{100 * share:.0f} %" in filled
        assert "longer than 4 tokens" in told
    assert data.pairs.source[-2].tolist() == [*data.codec.source.encode("ein der ein der"), EOS]
    tokens, seen = data.codec.encode_sources(["ein", "", "kind"])
    assert seen.sum(1).tolist() == [2, 1, 2] and tokens[1, 0] == EOS


def test_a_vocabulary_of_no_word_is_refused_and_the_share_of_unknown_ones_is_told(tmp_path):
    for separate in ("joint", "separate"):
        with pytest.raises(UserError, match="min_frequency must be at most") as error:
            part(tmp_path, min_frequency=999, vocabularies=separate)
        assert "\n" not in str(error.value)
    for tokenizer in ("words", "chars"):
        with pytest.raises(UserError, match=r"at least one (word|character) in the training split"):
            part(tmp_path, tokenizer=tokenizer, source=["", ""], target=["", ""])
    lines = {"source": ["ein"] * 2, "target": ["a b", "a b"], "valid_source": ["ein"] * 2}
    spec = part(tmp_path, min_frequency=1, **lines, valid_target=["a c d", "a e"])
    assert spec.data().unknown == 3 and spec.data().counts["tokens"] == 7
    assert "42.9 % of the tokens <unk>" in Translation.beside(spec.kept())[0]
    known = part(tmp_path, min_frequency=1, **lines, valid_target=["a b", "a b"]).kept()
    assert "<unk>" not in Translation.beside(known)[0]
    del known["unknown"]  # as it was kept before it was counted
    assert "<unk>" not in Translation.beside(known)[0]


def test_pig_latin_tells_how_much_of_its_batches_is_padding(tmp_path):
    spec = shoal.RunSpec(task="pig_latin", **MODEL, text=english(tmp_path)).task_part
    task = spec.build(0)
    batch = task.batch(task.tensors, torch.arange(len(spec.words().words)))
    real = torch.cat([batch["seen"], batch["scored"]], dim=1).double().mean().item()  # as a model reads and is scored
    assert spec.kept()["batches"] == {"widths": 1, "real_share": round(real, 4)}
    assert f"{100 * real:.0f} %" in type(spec).beside(spec.kept())[-1]
    assert len(type(spec).beside({**spec.kept(), "batches": None})) == 1  # as it was kept before


@pytest.mark.parametrize(("widths", "said"), [(1, "in 1 width"), (2, "in 2 widths")])
def test_one_width_is_one(widths, said):
    (line,) = Sorting.beside({"batches": {"real_share": 0.5, "widths": widths}})
    assert line.endswith(said)


def test_a_split_of_which_nothing_is_left_says_what_helps(tmp_path):
    with pytest.raises(UserError, match="empty") as error:
        part(tmp_path, min_frequency=1, valid_source=["", " "], valid_target=["a", "a"])
    assert "too_long" not in str(error.value) and "max_length" not in str(error.value)
    with pytest.raises(UserError, match="too_long=cut") as error:
        part(tmp_path, min_frequency=1, max_length=1)
    assert "empty" not in str(error.value)


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path):
    plain = part(tmp_path, min_frequency=1).data()
    for path in tmp_path.glob("*.txt"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    marked = Translation(**{name: str(tmp_path / f"{name}.txt") for name in FILES}, min_frequency=1).data()
    assert marked is not plain and marked.codec.to_json() == plain.codec.to_json()
    assert all(torch.equal(own, plain.pairs.tensors[name]) for name, own in marked.pairs.tensors.items())


@given(st.text(alphabet="a\n\r\ufeff"))
def test_lines_are_counted_as_they_are_divided(text):
    assert count_lines(text) == len(lines_of(text))


def test_members_of_a_stack_ask_again_without_the_files_being_divided(tmp_path, monkeypatch):
    spec = part(tmp_path, min_frequency=1)
    data = spec.data()
    monkeypatch.setattr("shoal.tasks.translation.corpus.lines_of", lambda text: pytest.fail("divides"))
    assert spec.data() is data
    own = Sorting(train_examples=200, valid_examples=40)
    first = [own.build_for("pair", seed).tensors["source"] for seed in range(9)]
    assert all(own.build_for("pair", seed).tensors["source"] is made for seed, made in enumerate(first))


def test_perplexity_is_per_token_and_per_word(tmp_path):
    spec = part(tmp_path, min_frequency=1)
    counts, text = spec.kept()["counts"], sentences(52)[1][40:]
    assert counts["words"] == sum(len(line.split()) for line in text)
    assert counts["characters"] == sum(map(len, text))
    assert Translation.units(spec.kept())["nats/word"] == counts["tokens"] / counts["words"]
    assert Sorting.units({"counts": counts}) == {}


def test_files_are_known_by_their_content(tmp_path):
    one = shoal.RunSpec(task="translation", **MODEL, **parallel(tmp_path))
    (tmp_path / "packed").mkdir()
    moved = {}
    for name, path in one.task_part.files().items():
        moved[name] = str(tmp_path / "packed" / f"{name}.gz")
        Path(moved[name]).write_bytes(gzip.compress(Path(path).read_bytes()))
    assert one.replace(**moved).id == one.id
    assert not set(moved) & set(one.canonical()) and one.canonical()["pair_key"] == one.pair_key
    for name in moved:
        changed = tmp_path / f"other-{name}"
        changed.write_text(Path(getattr(one, name)).read_text().replace("a", "b").replace("e", "i"))
        assert one.replace(**{name: str(changed)}).id != one.id


@pytest.mark.parametrize("copied", [lambda spec: shoal.RunSpec.restored(spec.dump()), copy.deepcopy, lambda spec: spec])
@pytest.mark.parametrize(
    "changes", [{"seed": 3}, {"tokenizer": "bpe", "vocabulary_size": 270}, {"lowercase": True}, {"min_frequency": 9}]
)
def test_what_was_found_out_is_found_out_again_for_another_run(tmp_path, copied, changes):
    chosen = {"task": "translation", **MODEL, **parallel(tmp_path)}
    own, direct = copied(shoal.RunSpec(**chosen)), shoal.RunSpec(**chosen, **changes)
    again = own.replace(**changes)
    assert again.id == direct.id and again.dump() == direct.dump()
    assert again.task_part.counts() == direct.task_part.counts()


def test_a_run_on_record_needs_no_files(tmp_path, monkeypatch):
    spec = shoal.RunSpec(task="translation", **MODEL, **parallel(tmp_path))
    for path in spec.task_part.files().values():
        Path(path).unlink()
    monkeypatch.setattr(translation_settings, "read_parallel", lambda paths: pytest.fail(f"reads {paths}"))
    again = shoal.RunSpec.restored(spec.dump())
    assert again.id == spec.id and again.sizes() == spec.sizes() and again.task_part.counts() == spec.task_part.counts()


def test_other_files_of_the_same_names_are_refused(tmp_path):
    spec = shoal.RunSpec(task="translation", **MODEL, **parallel(tmp_path))
    parallel(tmp_path, 30, 12)
    with pytest.raises(UserError, match="not those that the run began with"):
        build_task(spec)


def no_tokenizers(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)


MISTAKES = [
    ({"source": ""}, "--source FILE"),
    ({"valid_target": "nowhere.txt"}, "there is no file"),
    ({"vocabularies": "separate"}, "vocabularies=separate does not apply to model 'gpt'"),
    ({"tokenizer": "bpe", "vocabulary_size": 255}, "256"),
    ({"tokenizer": "bpe", "vocabulary_size": 99_999}, "99,?999"),
    ({"tokenizer": "words", "vocabulary_size": 99_999}, "at most 1[0-9], the types"),
    ({"tokenizer": "chars", "vocabulary_size": 99}, "does not apply to tokenizer 'chars'"),
    ({"tokenizer": "bpe", "min_frequency": 3}, "min_frequency=3 does not apply"),
    ({"tokenizer": "wrods"}, "unknown tokenizer 'wrods'.*words"),
    ({"max_length": 1}, "no pair .*too_long=cut"),
    ({"batching": "shuffled", "batch_tokens": 99}, "batch_tokens=99 does not apply to batching=shuffled"),
    (
        {"model": "encoder_decoder", "vocabularies": "separate", "tie_embeddings": "all"},
        "tie_embeddings=all.*two.*none and decoder",
    ),
    ({"label_smoothing_convention": "keras"}, "torch fairseq joeynmt"),
    ({"stop_after_generalizing": 5}, "does not apply to task 'translation'"),
    (
        {"pair_key": "0" * 16, "source_tokens": 9, "target_tokens": 9, "train_pairs": 9, "valid_pairs": 9},
        "pair_key must",
    ),
]


@pytest.mark.parametrize(("changes", "said"), MISTAKES)
def test_a_translation_that_cannot_be_learned_is_refused_in_one_line(tmp_path, changes, said):
    with pytest.raises(UserError, match=said) as error:
        shoal.RunSpec(**{"task": "translation", **MODEL, **parallel(tmp_path), **changes})
    assert "\n" not in str(error.value)


def test_embeddings_tied_across_vocabularies_are_refused_alike_wherever_it_is_seen(tmp_path):
    for model, others in (
        ("encoder_decoder", "none and decoder"),
        ("encoder_translator", "none"),
        ("non_autoregressive", "none"),
    ):
        with pytest.raises(UserError, match=f"{others} appl") as asked:
            shoal.RunSpec(
                task="translation", model=model, tie_embeddings="all", vocabularies="separate", **parallel(tmp_path)
            )
        part = shoal.RunSpec(task="sorting", model=model, tie_embeddings="all").model_part
        with pytest.raises(UserError) as built:
            part.build(Sizes(9, 5, 0, 8, 5))
        assert str(built.value) == str(asked.value)


def test_files_that_are_no_text_are_refused_in_one_line(tmp_path, monkeypatch):
    paths = parallel(tmp_path)
    for content, said in ((b"", "is empty"), (b"abc\xff\n", "source.txt is not UTF-8: byte 0xff at offset 3")):
        Path(paths["source"]).write_bytes(content)
        with pytest.raises(UserError, match=said):
            Translation(**paths)
    with pytest.raises(UserError, match="is a folder"):
        Translation(**{**paths, "source": str(tmp_path)})
    no_tokenizers(monkeypatch)
    with pytest.raises(UserError, match="needs the tokenizers library"):
        part(tmp_path, tokenizer="bpe", vocabulary_size=261)


# Pig Latin


@pytest.mark.parametrize("moved", ["cluster", "blocks"])
def test_the_rules_say_every_word_that_is_split_by_type(tmp_path, moved):
    spec = shoal.RunSpec(task="pig_latin", **MODEL, text=english(tmp_path), moved=moved)
    words, codec = spec.task_part.words(), codec_of(spec.task_part.kept())
    for word, source, target in zip(words.words, words.pairs.source, words.pairs.target, strict=True):
        assert codec.decode_source(source) == word and codec.decode_target(target) == pig_latin(word, moved)
    assert sorted(set(ENGLISH.split())) == words.words


BY_HAND = {
    "apple": ("appleway", "appleway"),
    "pig": ("igpay", "igpay"),
    "string": ("ingstray", "tringsay"),
    "shop": ("opshay", "opshay"),
    "the": ("ethay", "ethay"),
    "quick": ("ickquay", "ickquay"),
    "square": ("aresquay", "quaresay"),
    "yellow": ("ellowyay", "ellowyay"),
    "rhythm": ("ythmrhay", "hythmray"),
    "y": ("yway", "yay"),
    "hmm": ("hmmay", "mmhay"),
}


@pytest.mark.parametrize("word", BY_HAND)
def test_words_are_said_as_by_hand(word):
    assert tuple(pig_latin(word, moved) for moved in ("cluster", "blocks")) == BY_HAND[word]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.01, 0.99))
def test_no_word_is_in_both_splits(seed, share):
    words = WORDS
    train, valid = (set(split.tolist()) for split in words.split(share, seed))
    assert not train & valid and train | valid == set(range(len(words.words)))
    for inside in words.groups.values():
        assert any(inside[i] for i in train) and any(inside[i] for i in valid)
    other = words.split(share, seed ^ 1)
    assert [len(train), len(valid)] == [len(split) for split in other]


@pytest.fixture(autouse=True, scope="module")
def _words(tmp_path_factory):
    global WORDS
    path = tmp_path_factory.mktemp("words") / "text.txt"
    path.write_text(ENGLISH * 2)
    WORDS = load_words((str(path),), None, 20, "cluster")


def test_each_word_falls_under_one_rule():
    assert torch.stack(list(WORDS.groups.values())).sum(0).tolist() == [1] * len(WORDS.words)
    assert WORDS.occurrences == 2 * len(ENGLISH.split()) - 1
    assert list(WORDS.groups) == list(RULES)
    assert [rule_of(word) for word in ("apple", "pig", "string", "quick")] == [
        "vowel",
        "consonant",
        "cluster",
        "cluster",
    ]


def test_words_are_letters_a_to_z():
    assert list(words_of("It's naïve: The THE o'clock x2 Rock-n-roll 3rd", 4)) == [
        "the",
        "the",
        "x",
        "rock",
        "n",
        "roll",
        "rd",
    ]


@pytest.mark.parametrize(
    ("text", "said"), [("7 8 é", "two different words"), ("one One ONE", "one"), ("a" * 30, "none")]
)
def test_a_text_without_words_is_refused(tmp_path, text, said):
    path = tmp_path / "text.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        shoal.RunSpec(task="pig_latin", **MODEL, text=str(path))
    with pytest.raises(UserError, match="--text FILE"):
        shoal.RunSpec(task="pig_latin", **MODEL)


# sorting


SHAPES = st.tuples(st.integers(1, 5), st.integers(0, 3), st.integers(3, 12), st.integers(0, 2**32 - 1))


@settings(max_examples=40, deadline=None)
@given(SHAPES, st.data())
def test_no_multiset_is_in_both_splits(shape, data):
    least, more, digits, seed = shape
    sizes = {"min_length": least, "max_length": least + more, "digits": digits}
    n = more + 1
    most = Sorting(**sizes, valid_examples=n, train_examples=n).multisets(least) // 2
    n_valid = data.draw(st.integers(n, max(n, n * min(most, 20))))
    task = Sorting(**sizes, valid_examples=n_valid, train_examples=60).build_for("pair", seed)
    rows = [sorted(row[row > EOS].tolist()) for row in task.tensors["source"]]
    train, valid = ([tuple(rows[i]) for i in task_rows] for task_rows in (range(60), range(60, len(rows))))
    assert len(set(valid)) == len(valid) == n_valid and not set(train) & set(valid)
    for row, (source, target) in enumerate(zip(task.tensors["source"], task.tensors["target"], strict=True)):
        assert target[target > EOS].tolist() == rows[row]
        length = len(rows[row])
        assert source[length] == target[length] == EOS and (source[length + 1 :] == PAD).all()
        assert least <= length <= least + more and max(rows[row]) < 3 + digits
    lengths = Counter(map(len, train))
    assert max(lengths.values()) - min(lengths.values()) <= 1
    assert set(task.groups) == ({f"length{n}" for n in range(least, least + more + 1)} if more else set())


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_multisets_that_validate_are_all_different(seed, is_listed):
    rows = choose_multisets(torch.tensor(seed), 12, 3, 5, 35 if is_listed else 10**9)
    assert rows.shape == (12, 3) and len({tuple(sorted(row)) for row in rows.tolist()}) == 12


@pytest.mark.parametrize(("digits", "length", "n"), [(3, 200, 10_000), (4, 60, 19_855), (10_000, 2, 999)])
def test_multisets_that_validate_are_found_where_few_are_likely(digits, length, n):
    """Drawn number by number the likely ones run out, and none would be left to train on."""
    rows = choose_multisets(torch.tensor(n), n, length, digits, comb(length + digits - 1, length))
    assert rows.shape == (n, length) and rows.min() >= 0 and rows.max() < digits
    assert len(set(map(tuple, rows.sort(-1).values.tolist()))) == n
    reserved = rows.sort(-1).values
    train = draw_numbers(torch.tensor(0), 200, length, digits, reserved)
    assert not set(map(tuple, train.sort(-1).values.tolist())) & set(map(tuple, reserved.tolist()))


def test_chosen_multisets_are_alike_likely_where_examples_would_not_be():
    """Of 200 numbers below 3 any count of zeros k has 201 - k multisets; drawn as examples all would be near 67."""
    rows = choose_multisets(torch.tensor(0), 10_000, 200, 3, comb(202, 2))
    zeros = (rows == 0).sum(-1).float()
    assert abs(zeros.mean() - 67) < 2 and abs(zeros.std() - 47) < 2  # of the triangular distribution: 200 / sqrt(18)
    first = rows[:, 0].bincount() / len(rows)
    assert (first - 1 / 3).abs().max() < 0.02  # what stands first is any of them


def test_numbers_are_drawn_alike_and_hang_on_the_seed():
    own = Sorting(train_examples=2000, valid_examples=50)
    first, again, other = (own.build_for("pair", seed).tensors["source"] for seed in (0, 0, 1))
    assert first is again and not torch.equal(first, other)
    counts = torch.bincount(first[first > EOS] - 3, minlength=100).float()
    assert (counts / counts.sum() - 0.01).abs().max() < 0.002


def test_the_small_task_of_mingpt_has_28_multisets():
    small = {"task": "sorting", **MODEL, "min_length": 6, "max_length": 6, "digits": 3}
    spec = shoal.RunSpec(**small, valid_examples=14, train_examples=6000)
    task = build_task(spec)
    several = {tuple(row.sort().values.tolist()) for row in task.tensors["source"][task.drawn]}
    assert len(several) == 14
    with pytest.raises(UserError, match=r"there are 28.* at most 14 are possible"):
        shoal.RunSpec(**small, valid_examples=15)
    with pytest.raises(UserError, match="there are 28"):
        shoal.RunSpec(**small)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"min_length": 21}, "min_length must be at most max_length"),
        ({"digits": 1}, r"digits must be an integer in \[2, 10000\]"),
        ({"train_examples": 3}, "train_examples must be at least 1 of each of the 11 lengths"),
        ({"train_examples": 2**30}, "fit"),
        ({"text": "a.txt"}, "does not apply to task 'sorting'"),
    ],
)
def test_numbers_that_cannot_be_sorted_are_refused(changes, said):
    with pytest.raises(UserError, match=said):
        shoal.RunSpec(task="sorting", **MODEL, **changes)

"""Make the folder ``gpt2_tokenizer``: a small tokenizer of GPT-2's kind, and tokens of texts by transformers.

Run where transformers is installed: ``PYTHONPATH=src:tests python tests/vectors/make_tokenizer.py``.

``texts.json`` has pairs of a text and its tokens. ``vocab.json`` and ``merges.txt``, and the same as
``tokenizer.json`` in the folder ``one``, are what that library reads and writes.
"""

import json
import random
import shutil
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, GPT2Tokenizer

HERE = Path(__file__).parent / "gpt2_tokenizer"
END = "<|endoftext|>"
TRAIN = (
    "The cat sat on the mat, and the other cats sat on other mats: it's 12 + 34 = 46, isn't it?\r\n"
    "We'll see what they've said; I'm sure he'd agree that the theory holds.\n\n\tIndented line\n"
    "café naïve façade Ünïcödé, 日本語の文章, русский текст, العربية, 🐕🐕👩‍👩‍👧\n"
) * 4
ODD = [
    "", " ", "  ", "\n", "\r\n\r\n", "\t\tx", "a", " a", "  a", "a ", "a  b", "the", " the", "The theory", "THE",
    "it's isn't we'll they've I'm he'd", "IT'S 's 's' 't", "12 345 6789 3.14 1,000", "café naïve", "e\u0301 e\u0301e",
    "日本語の文章", "русский", "العربية", "🐕🐕", "👩‍👩‍👧 x", "\0", "a\0b", "\x1c\x85\u2028\u3000\ufeff", "\u00a0the",
    "…—“quotes”",
    END, f"the{END}cat", f" {END} ", f"{END}{END}", "<|endoftext", "<|endoftext|", "<unk>[PAD]</s>",
    "def f(x):\n    return x\n",
    "a" * 300, "the " * 50, " \n the \n\n cat", "x\u200by", "½ ⅓ ² ₃ ①", "ǅ ß ﬁ ſ", "a\u0300\u0301\u0302",
    "\U0001f1e9\U0001f1ea", "\U0010ffff",
]  # fmt: skip


def learned() -> tuple[dict[str, int], list[list[str]]]:
    """Vocabulary and merges of a small text: bytes in the order of their signs, merges, and the end of a text."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    trained.train_from_iterator([TRAIN], trainer)
    model = json.loads(trained.to_str())["model"]
    return {**model["vocab"], END: len(model["vocab"])}, model["merges"]


def texts() -> list[str]:
    """The odd texts, and mixtures of their parts."""
    rng, parts = random.Random(0), [*ODD, *TRAIN.split(" ")]
    return [*ODD, TRAIN, *("".join(rng.choices(parts, k=rng.randint(2, 12))) for _ in range(60))]


def main() -> None:
    """Write the folder."""
    shutil.rmtree(HERE, ignore_errors=True)
    (HERE / "one").mkdir(parents=True)
    vocabulary, merges = learned()
    (HERE / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (HERE / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    library = GPT2Tokenizer.from_pretrained(HERE)
    library.save_pretrained(HERE / "one")
    for path in (HERE / "one").iterdir():
        if path.name != "tokenizer.json":
            path.unlink()
    pairs = [[text, library(text)["input_ids"]] for text in texts()]
    again = AutoTokenizer.from_pretrained(HERE / "one", tokenizer_type="gpt2")
    assert all(again(text)["input_ids"] == tokens for text, tokens in pairs)
    (HERE / "texts.json").write_text(json.dumps(pairs), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Writes ``embeddings/`` beside it: ``python make_embeddings.py gensim`` and ``… transformers``.

Small files of word vectors as gensim 4.4 writes them, and a BERT with its tokenizer as transformers 5.24 saves them.
``expected.json`` has their values as these libraries read them back. Nothing here is computed by shoal.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent / "embeddings"
WORDS = ["the", "cat", "Haus", "straße", "1", "naïve", "🐕", "New_York"]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "un", "##able", "##s", "haus", "."]


def note(name: str, content: object) -> None:
    path = HERE / "expected.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps({**known, name: content}, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def with_gensim() -> None:
    from gensim.models import KeyedVectors

    vectors = KeyedVectors(vector_size=5)
    rows = np.random.default_rng(0).normal(0, 0.4, (len(WORDS), 5)).astype(np.float32)
    vectors.add_vectors(WORDS, rows)
    vectors.save_word2vec_format(str(HERE / "word2vec.bin"), binary=True)
    vectors.save_word2vec_format(str(HERE / "word2vec.txt"), binary=False)
    vectors.save_word2vec_format(str(HERE / "glove.txt"), binary=False, write_header=False)
    for name, how in {"word2vec.bin": {"binary": True}, "word2vec.txt": {}, "glove.txt": {"no_header": True}}.items():
        again = KeyedVectors.load_word2vec_format(str(HERE / name), **how)
        note(name, {word: again[word].tolist() for word in WORDS})


def with_transformers() -> None:
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    folder = HERE / "bert"
    shutil.rmtree(folder, ignore_errors=True)
    size = {"hidden_size": 6, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = BertModel(BertConfig(vocab_size=len(PIECES), max_position_embeddings=8, **size))
    model.save_pretrained(folder)
    tokenizer = Tokenizer(models.WordPiece({piece: n for n, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]")
    fast.save_pretrained(folder)
    for path in folder.iterdir():
        if path.name not in ("tokenizer.json", "model.safetensors"):
            path.unlink()
    table = model.get_input_embeddings().weight.detach()
    pieces = {word: fast(word, add_special_tokens=False)["input_ids"] for word in ("the", "cats", "Haus", "unable")}
    note("bert", {word: table[ids].mean(0).tolist() for word, ids in pieces.items()})
    note("bert pieces", pieces)


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    {"gensim": with_gensim, "transformers": with_transformers}[sys.argv[1]]()

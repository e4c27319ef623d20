"""Pages on models that they train or search: each fails where such a model, or the search, does something else."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import shoal.decoding
from shoal.gallery import Off, run_page, trained
from shoal.models import LayerNorm, MultiHeadedAttention
from shoal.models.gpt import Block

FOLDER = Path(__file__).parents[1] / "gallery"


def scaled(self, queries, keys, mask=None, right=MultiHeadedAttention.get_attention_weights):
    """Attention whose scores are a thousandth too large in a causal model, and right elsewhere."""
    return right(self, queries * (1.001 if self.causal else 1), keys, mask)


def no_residual(self, x):
    return self.ffn(self.ffn_norm(x))


def over_positions(self, inputs, right=LayerNorm.forward):
    """LayerNorm that normalises the positions of a sentence, and the last axis of all other tensors."""
    if inputs.ndim == 3 and self.hidden_size == 16:
        variance, mean = torch.var_mean(inputs, dim=1, correction=0, keepdim=True)
        return (inputs - mean) * torch.rsqrt(variance + self.eps) * self.weight + self.bias
    return right(self, inputs)


def one_twice(*arguments, right=shoal.decoding.exhaustive_search, **named):
    """Exhaustive search that gives its second text in place of the third."""
    result = right(*arguments, **named)
    result.tokens[:, :, 2] = result.tokens[:, :, 1]
    return result


BROKEN = {
    "plot_33_attention": (MultiHeadedAttention, "get_attention_weights", scaled, "trained GPT's weights"),
    "plot_34_residuals_and_layer_norm": (Block, "_fed_forward", no_residual, "difference of blocks"),
    "plot_36_normalisation": (LayerNorm, "forward", over_positions, "mean of the features of a position"),
    "plot_38_decoding": (shoal.decoding, "exhaustive_search", one_twice, "different sequences"),
}


@pytest.mark.parametrize("page", BROKEN)
def test_a_page_fails_where_its_model_is_broken(page, monkeypatch, tmp_path):
    owner, name, wrong, words = BROKEN[page]
    monkeypatch.setattr(owner, name, wrong)
    # in a lab of its own: what is trained here must not be taken for a right model later
    monkeypatch.setitem(trained.__globals__, "_lab", lambda: SimpleNamespace(name=tmp_path))
    with pytest.raises(Off, match=re.escape(words)):
        run_page(FOLDER / f"{page}.py")

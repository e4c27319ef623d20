"""Pages on exact models: each fails where the library computes something else."""

from pathlib import Path

import pytest
import torch

import shoal.exact
from shoal.exact import BidirectionalRNN, ThresholdNeuron, parity
from shoal.gallery import Off, run_page
from shoal.models import LayerNorm, MultiHeadedAttention

FOLDER = Path(__file__).parents[1] / "gallery"


def scaled(owner, name, scale=1.001):
    """Function of a class or module, with its result scaled."""
    right = getattr(owner, name)
    return owner, name, lambda *arguments, **named: scale * right(*arguments, **named)


def moments(x, over, unbiased=False):
    """Moments by another divisor."""
    variance, mean = torch.var_mean(x, dim=shoal.exact.AXES.get(over, over), correction=1)
    return shoal.exact.Moments(mean, variance)


def weights(self, queries, keys, mask=None, right=MultiHeadedAttention.get_attention_weights):
    return 1.001 * right(self, queries, keys, mask)


def gradients(self, *arguments, right=BidirectionalRNN.gradients):
    """Gradients without that of the last initial state."""
    result = right(self, *arguments)
    return result._replace(start_b=0 * result.start_b)


BROKEN = {
    "plot_06_bidirectional_rnn": (BidirectionalRNN, "gradients", gradients),
    "plot_08_threshold_neurons": (ThresholdNeuron, "__call__", lambda self, x: int(self.pre_activation(x) > 0.6)),
    "plot_09_parity_lstm": (parity, "b_C", 0.5),
    "plot_34_residuals_and_layer_norm": scaled(LayerNorm, "forward"),
    "plot_35_spectral_radius": scaled(shoal.exact, "power_norms"),
    "plot_36_normalisation": (shoal.exact, "moments", moments),
    "plot_37_message_passing": (MultiHeadedAttention, "get_attention_weights", weights),
}


@pytest.mark.parametrize("page", BROKEN)
def test_a_page_fails_where_the_library_is_broken(page, monkeypatch):
    monkeypatch.setattr(*BROKEN[page])
    with pytest.raises(Off):
        run_page(FOLDER / f"{page}.py")

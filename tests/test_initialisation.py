"""Initial values other than PyTorch's own."""

import math

import pytest
import torch

from shoal.spec import RunSpec
from shoal.tasks.build import build_model, build_task


def test_scaled_normal_draws_matrices_and_clears_biases_but_not_norms():
    spec = RunSpec(model="gpt", embedding_size=256, positions="learned", bias_ffn=True, initialisation="scaled_normal")
    task = build_task(spec)
    model = build_model(spec, task)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and "embedding" not in name:
            assert float(parameter.detach().std()) == pytest.approx(1 / math.sqrt(256), rel=0.05), name
        elif "norm.weight" in name:
            assert torch.equal(parameter, torch.ones_like(parameter)), name
        elif parameter.dim() == 1:
            assert not parameter.any(), name
    tokens = model.get_parameter("embedding.tokens.weight")
    assert not tokens[task.padding_index].any()
    assert float(tokens[: task.padding_index].detach().std()) == pytest.approx(1 / math.sqrt(256), rel=0.05)

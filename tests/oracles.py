"""What the optimizers are held against: torch.optim, and Lion as its paper writes it."""

from collections.abc import Mapping
from unittest import mock

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Muon, Optimizer


class Lion(Optimizer):
    """Chen et al. 2023, algorithm 2, tensor by tensor."""

    def __init__(self, parameters, lr, betas, weight_decay):
        super().__init__(parameters, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for theta in group["params"]:
                g, m = theta.grad, self.state[theta].get("m", torch.zeros_like(theta))
                c = beta1 * m + (1 - beta1) * g
                theta -= group["lr"] * (torch.sign(c) + group["weight_decay"] * theta)
                self.state[theta]["m"] = beta2 * m + (1 - beta2) * g


class FullPrecisionMuon(Muon):
    """torch.optim.Muon without its rounding to bfloat16."""

    def step(self):
        with mock.patch.object(Tensor, "bfloat16", Tensor.clone):
            super().step()


def torch_optimizers(rule: str, parameters: Mapping[str, Tensor], member: Mapping[str, float]) -> list[Optimizer]:
    """What trains a model of these parameters in plain PyTorch; Muon leaves some of them to AdamW."""
    every = list(parameters.values())
    shared = {"lr": member["lr"], "weight_decay": member["weight_decay"]}
    if rule in ("sgd", "momentum"):
        return [SGD(every, momentum=member.get("momentum", 0.0), **shared)]
    betas = (member["beta1"], member["beta2"])
    if rule == "lion":
        return [Lion(every, betas=betas, **shared)]
    if rule in ("adam", "adamw"):
        return [{"adam": Adam, "adamw": AdamW}[rule](every, betas=betas, eps=member["eps"], **shared)]
    hidden = [p for name, p in parameters.items() if p.dim() == 2 and "embedding" not in name and "class" not in name]
    others = [p for p in every if not any(p is matrix for matrix in hidden)]
    muon = FullPrecisionMuon(hidden, momentum=member["momentum"], adjust_lr_fn="match_rms_adamw", **shared)
    return [muon, AdamW(others, betas=betas, eps=member["eps"], **shared)]

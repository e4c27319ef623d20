"""Modules of torch.nn with the weights of ours, and ragged sources to compare them on."""

import torch
from torch import Tensor, nn

S, T, VS, V = 9, 7, 11, 8  # of all small models here


def close(found: Tensor, expected: Tensor, *, atol: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)


def randomised(module: nn.Module, seed: int = 0, std: float = 0.5) -> nn.Module:
    """Every parameter drawn anew, so that ones and zeros of an initialisation hide nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=std, generator=generator)
    return module


def ragged(seed: int, rows: int, longest: int = S) -> tuple[Tensor, Tensor]:
    """Sources and which of their tokens count: the first ones, from one to all."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.randint(VS, (rows, longest), generator=generator)
    lengths = torch.randint(1, longest + 1, (rows, 1), generator=generator)
    return source, torch.arange(longest) < lengths


Pairs = list[tuple[Tensor, list[Tensor]]]  # a parameter of torch.nn and ours, which one after the other are the same


def of_linear(twin: nn.Module, *own: nn.Linear) -> Pairs:
    return [(twin.weight, [linear.weight for linear in own]), (twin.bias, [linear.bias for linear in own])]


def of_attention(twin: nn.MultiheadAttention, own: nn.Module) -> Pairs:
    inner = (own.W_Q, own.W_K, own.W_V)
    stacked = [
        (twin.in_proj_weight, [linear.weight for linear in inner]),
        (twin.in_proj_bias, [linear.bias for linear in inner]),
    ]
    return [*stacked, *of_linear(twin.out_proj, own.W_O)]


def of_layer(twin: nn.Module, own: nn.Module) -> Pairs:
    pairs = of_attention(twin.self_attn, own.self_attn) + of_linear(twin.norm1, own.self_attn_norm)
    pairs += of_linear(twin.linear1, own.ffn[0]) + of_linear(twin.linear2, own.ffn[2])
    if isinstance(twin, nn.TransformerDecoderLayer):
        pairs += of_attention(twin.multihead_attn, own.cross_attn) + of_linear(twin.norm2, own.cross_attn_norm)
        return pairs + of_linear(twin.norm3, own.ffn_norm)
    return pairs + of_linear(twin.norm2, own.ffn_norm)


def of_stack(twin: nn.Module, own: nn.Module) -> Pairs:
    pairs = [pair for layers in zip(twin.layers, own.blocks, strict=True) for pair in of_layer(*layers)]
    return pairs + ([] if twin.norm is None else of_linear(twin.norm, own.norm))


def copied(pairs: Pairs) -> None:
    with torch.no_grad():
        for theirs, ours in pairs:
            theirs.copy_(torch.cat(ours))


def assert_same_gradients(pairs: Pairs, own: nn.Module, atol: float = 1e-5) -> None:
    """Of all weights of a module, each once."""
    known = {id(parameter) for _, ours in pairs for parameter in ours}
    assert known >= {id(parameter) for parameter in own.parameters()}
    for theirs, ours in pairs:
        scale = max(1.0, float(theirs.grad.abs().max()))
        close(torch.cat([parameter.grad for parameter in ours]) / scale, theirs.grad / scale, atol=atol)


def torch_transformer(form: dict, layers: tuple[int, int]) -> nn.Transformer:
    """With last norms for pre-norm blocks alone, as ours: torch.nn's own has them after post-norm blocks, too."""
    like = (8, 2, 16, 0.0, form["activation"])
    options = {"batch_first": True, "norm_first": form["pre"]}
    last = [nn.LayerNorm(8) if form["pre"] else None for _ in range(2)]
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(*like, **options), layers[0], last[0], False)
    decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(*like, **options), layers[1], last[1])
    return nn.Transformer(8, 2, custom_encoder=encoder, custom_decoder=decoder, batch_first=True).double()

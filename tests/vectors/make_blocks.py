"""Make ``blocks.safetensors``: matrices in 4-bit blocks as bitsandbytes 0.50.2 quantises them on a CPU.

Run where bitsandbytes is installed: ``python tests/vectors/make_blocks.py``.

Its own dequantisation on CPUs with AVX-512 takes the wrong block's absmax where a matrix is wider than a block and its
width is no multiple of 64 (version 0.50.2); the values here are those of its generic code.
"""

from pathlib import Path

import bitsandbytes.functional as F
import torch
from bitsandbytes.backends.default import ops
from safetensors.torch import save_file

SHAPES = [(7, 9), (1, 1), (1, 63), (2, 32), (65, 33), (12, 96)]


def matrices() -> dict[str, torch.Tensor]:
    """Matrices of odd shapes, with blocks of zeros, and with ties between all levels."""
    torch.manual_seed(0)
    made = {f"normal{i}": torch.randn(shape) for i, shape in enumerate(SHAPES)}
    made["zero_block"] = torch.randn(4, 64)
    made["zero_block"][2] = 0
    made["zeros"] = torch.zeros(3, 50)
    made["zero_rest"] = torch.randn(3, 50)
    made["zero_rest"].view(-1)[128:] = 0
    for kind in ("nf4", "fp4"):
        levels = F.get_4bit_type(kind, device="cpu").sort().values
        ties = torch.cat([levels, (levels[1:] + levels[:-1]) / 2]).repeat(2)[:62]
        made[f"ties_{kind}"] = torch.cat([ties, torch.ones(2)]).reshape(2, 32)
    return made


def main() -> None:
    """Write the file beside this one."""
    tensors = {}
    for name, weight in matrices().items():
        tensors[name] = weight
        for kind in ("nf4", "fp4"):
            codes, single = F.quantize_4bit(weight, blocksize=64, quant_type=kind)
            _, double = F.quantize_4bit(weight, blocksize=64, quant_type=kind, compress_statistics=True)
            at = f"{name}.{kind}"
            scales = F.dequantize_blockwise(double.absmax, double.state2) + double.offset
            tensors |= {f"{at}.codes": codes.reshape(-1), f"{at}.absmax": single.absmax}
            tensors |= {f"{at}.absmax_codes": double.absmax, f"{at}.absmax_absmax": double.state2.absmax}
            tensors |= {f"{at}.offset": double.offset.reshape(()), f"{at}.scales": scales}
            tensors[f"{at}.values"] = ops._dequantize_4bit_compute(
                codes.reshape(-1), single.absmax, single.code, 64, weight.shape, torch.float32
            )
    path = Path(__file__).with_name("blocks.safetensors")
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path)


if __name__ == "__main__":
    main()

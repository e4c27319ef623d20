"""Equations by direct evaluation, in words: what the tables of the tasks are held to."""

import math
from itertools import product

import torch
from torch import Tensor

from shoal.tasks.arithmetic.data import ArithmeticData
from shoal.tasks.arithmetic.equations import MIXED


def orders_of(args: dict) -> list[int]:
    orders = args["operation_orders"]
    return [orders] if isinstance(orders, int) else sorted(orders)


def result_of(operator: str, x: int, others: list[int], q: int) -> int:
    """By the operator's own formula."""
    y = others[0]
    return {
        "+": lambda: x + sum(others),
        "-": lambda: x - sum(others),
        "*": lambda: x * math.prod(others),
        MIXED: lambda: x * pow(y, -1, q) if y % 2 else x - y,
        "x^2+y^2": lambda: x * x + y * y,
        "x^2+xy+y^2": lambda: x * x + x * y + y * y,
        "x^2+xy+y^2+x": lambda: x * x + x * y + y * y + x,
        "x^3+xy": lambda: x * x * x + x * y,
        "x^3+xy^2+y": lambda: x * x * x + x * y * y + y,
    }[operator]() % q


def expected_equations(args: dict) -> list[str]:
    """Every equation in words, by direct evaluation."""
    p, q, operator = args["p"], args["q"], args["operator"]
    between, pattern = {
        "full": (f" {operator} ", "BOS {} = {} EOS"),
        "eos": (f" {operator} ", "EOS {} = {} EOS"),
        "infix": (f" {operator} ", "{} = {}"),
        "operands": (" ", "{} = {}"),
    }[args["equation_format"]]
    zeros, out = args.get("zero_operands", "any"), []
    for order in orders_of(args):
        for first, *others in product(range(p), repeat=order):
            if operator == "/" and 0 in others:
                continue
            if (zeros != "any" and 0 in others) or (zeros == "none" and first == 0):
                continue
            if args["is_symmetric"] and sorted([first, *others]) != [first, *others]:
                continue
            if operator == "/":
                left, right = first * math.prod(others) % q, first
            else:
                left, right = first, result_of(operator, first, others, q)
            out.append(pattern.format(between.join(map(str, [left, *others])), right))
    return out


def answers(data: ArithmeticData) -> dict[str, list[str]]:
    """What stands right of ``=`` in the equations of each left side."""
    out: dict[str, list[str]] = {}
    for left, right in (text.split(" =") for text in words(data)):
        out.setdefault(left, []).append(right)
    return out


def words(data: ArithmeticData, rows: Tensor | None = None) -> list[str]:
    rows = torch.arange(len(data.tokens)) if rows is None else rows
    return [data.tokenizer.decode(data.tokens[row]).replace(" PAD", "") for row in rows]

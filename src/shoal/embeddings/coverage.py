"""Coverage of a vocabulary by pretrained vectors, by type and by token, and the rule that matched each type.

``V`` tokens of a vocabulary, of which the first are special ones without text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shoal.embeddings.vectors import Rows, Vectors

AS_IS, LOWER, NONE = "as_is", "lower", "none"
RULES = (AS_IS, LOWER, NONE)
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Covered:
    """Rows of a vocabulary's types.

    Attributes:
        values: ``(V, E)`` float32; the row of a type that has one, or the mean of its pieces, else 0.
        matched: mask of the types that have a row, ``(V,)`` bool.
        composed: mask of the others that are made of pieces, ``(V,)`` bool.
        rules: one of :data:`RULES` for each type, behind ``first`` special tokens.
        first: number of special tokens.
        vectors: the vectors.
    """

    values: Rows
    matched: npt.NDArray[np.bool_]
    composed: npt.NDArray[np.bool_]
    rules: Sequence[str]
    first: int
    vectors: Vectors

    @property
    def deviation(self) -> float:
        """Standard deviation of all values of the rows that were matched."""
        return float(self.values[self.matched].std(dtype=np.float64))

    def counted(self, counts: Mapping[str, Counts]) -> dict[str, dict[str, int]]:
        """Numbers of types and of tokens by rule, for each split.

        Args:
            counts: occurrences of each token of the vocabulary in a split, ``(V,)``, by the split's name. Special
                tokens that are counted, such as that of unknown words, are tokens without a row and no types.

        Returns:
            For each split ``types``, ``types_as_is``, ``types_lower``, ``types_none``, and so for ``tokens``; and
            ``unknown``, the number of tokens that are special.
        """
        return {split: self._split(numbers) for split, numbers in counts.items()}

    def _split(self, numbers: Counts) -> dict[str, int]:
        rules, text = np.array(self.rules), numbers[self.first :]
        out = {
            "types": int((text > 0).sum()),
            "tokens": int(numbers.sum()),
            "unknown": int(numbers[: self.first].sum()),
        }
        for rule in RULES:
            of_rule = text[rules == rule] if len(rules) else text[:0]
            out[f"types_{rule}"] = int((of_rule > 0).sum())
            out[f"tokens_{rule}"] = int(of_rule.sum())
        out["tokens_none"] += out["unknown"]
        return out


def forms_of(word: str) -> list[str]:
    """Forms in which a type is looked up, the first that has a row counts: as it is, then lower-cased.

    >>> forms_of(" Haus"), forms_of("the")
    ([' Haus', 'Haus', ' haus', 'haus'], ['the'])
    """
    return list(dict.fromkeys((word, word.strip(), word.lower(), word.lower().strip())))


def covered(types: Sequence[str], first: int, vectors: Vectors) -> Covered:
    """Rows of the types of a vocabulary, which stand behind ``first`` special tokens.

    Args:
        types: the types; one that begins with a space stands behind white space.
        first: number of special tokens.
        vectors: vectors that were read for :func:`forms_of` of every type.
    """
    V = first + len(types)
    values, matched = np.zeros((V, vectors.width), np.float32), np.zeros(V, np.bool_)
    composed, rules = np.zeros(V, np.bool_), []
    for token, name in enumerate(types, first):
        forms = forms_of(name)
        form = next((form for form in forms if form in vectors.index), None)
        rules.append(NONE if form is None else AS_IS if form.strip() == name.strip() else LOWER)
        if form is not None:
            values[token], matched[token] = vectors.rows[vectors.index[form]], True
        elif part := next((form for form in forms if form in vectors.composed), None):
            values[token], composed[token] = vectors.rows[vectors.composed[part]], True
    return Covered(values, matched, composed, rules, first, vectors)


def lines_of(side: str, record: Mapping[str, Mapping[str, int]], missing: str) -> list[str]:
    """Lines about the coverage of a side, by split: ``record`` as :meth:`Covered.counted` gives it."""
    out = []
    for split, n in record.items():
        types = n["types_as_is"] + n["types_lower"]
        share = 100 * (n["tokens_as_is"] + n["tokens_lower"]) / max(1, n["tokens"])
        lower = f" ({n['types_lower']:,} of them lower-cased)" if n["types_lower"] else ""
        unknown = f", of which {n['unknown']:,} tokens are of no type" if n["unknown"] else ""
        out.append(
            f"embeddings of {side}, {split}: {types:,} of {n['types']:,} types{lower}, {share:.2f} % of "
            f"{n['tokens']:,} tokens{unknown}{missing if split == next(iter(record)) else ''}"
        )
    return out

"""Equal bits are asked for where they have to be, and a user's own choice stays."""

import os

import pytest

from shoal.fast import products


@pytest.mark.parametrize(
    ("vendor", "chosen", "found"),
    [
        ("AuthenticAMD", None, "AUTO,STRICT"),
        ("AuthenticAMD", "COMPATIBLE", "COMPATIBLE"),
        ("GenuineIntel", None, None),
        ("", None, None),
    ],
)
def test_equal_bits_are_asked_for_on_processors_that_need_it(monkeypatch, vendor, chosen, found):
    monkeypatch.setattr(products, "_vendor", lambda: vendor)
    monkeypatch.setenv(products.VARIABLE, chosen or "")
    if chosen is None:
        monkeypatch.delenv(products.VARIABLE)
    products.ask_for_equal_bits()
    assert os.environ.get(products.VARIABLE) == found

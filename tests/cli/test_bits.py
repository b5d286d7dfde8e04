"""`tilus bits`: the placement and the program of an unpack plan."""

from __future__ import annotations

from tilus.cli import main
from tilus.dtypes import float16, int6b
from tilus.ir.layout.bit_search import NF4, plan_unpack


def test_prints_the_plan(capsys):
    assert 0 == main(["bits", "int6b", "float16"])
    assert f"{plan_unpack(int6b, float16)}\n" == capsys.readouterr().out


def test_nf4_has_a_name(capsys):
    assert 0 == main(["bits", "nf4", "float16"])
    assert f"{plan_unpack(NF4, float16)}\n" == capsys.readouterr().out


def test_mistakes(capsys):
    assert 1 == main(["bits", "int9b", "float16"])
    assert "unknown data type 'int9b'" in capsys.readouterr().err
    assert 1 == main(["bits", "int6b", "float32"])
    assert "there is no unpacking to float32" in capsys.readouterr().err

"""`tilus.testing.assert_close`."""

import pytest
import torch

import tilus
from tilus.testing import assert_close


def test_equal_tensors_of_both_kinds_are_close():
    values = torch.tensor([-1.0, 0.5, 2.0])
    assert_close(tilus.from_torch(values).to(tilus.float6_e3m2), values)


def test_the_message_says_where_and_how_much():
    with pytest.raises(AssertionError) as info:
        assert_close(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 2.0], [3.5, 4.0]]))
    message = str(info.value)
    assert "1 of 4 elements" in message
    assert "[1, 0]: 3.0 instead of 3.5" in message
    assert "largest error 0.5" in message


def test_nan_is_equal_to_nan_only():
    nan = torch.tensor([float("nan")])
    assert_close(nan, nan)
    with pytest.raises(AssertionError):
        assert_close(nan, torch.zeros(1))


def test_shapes_must_agree():
    with pytest.raises(AssertionError, match="shapes differ"):
        assert_close(torch.zeros(2), torch.zeros(1, 2))

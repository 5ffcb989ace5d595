"""What is remembered of operators on shapes: only what was asked before, in every respect that counts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from graph.meta import Unfit, frozen, on_shapes

aten = torch.ops.aten


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


@pytest.fixture
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_the_same_question_is_asked_once() -> None:
    first = on_shapes(aten.relu.default, (meta(2, 3),), {})
    assert on_shapes(aten.relu.default, (meta(2, 3),), {}) is first
    assert on_shapes(aten.relu.default, (meta(3, 2),), {}).shape == (3, 2)
    assert on_shapes(aten.relu.default, (meta(2, 3, dtype=torch.float64),), {}).dtype is torch.float64


def test_numbers_of_other_types_are_other_questions() -> None:
    kwargs = {"device": torch.device("meta")}
    found = [on_shapes(aten.full.default, ([2], value), kwargs).dtype for value in (1, 1.0, True)]
    assert found == [torch.int64, torch.float32, torch.bool]


def test_strides_are_part_of_the_question() -> None:
    for x in (meta(4, 6), meta(6, 4).t(), meta(4, 12)[:, ::2]):
        found = on_shapes(aten.clone.default, (x,), {})
        assert found.stride() == x.clone().stride()


def test_arguments_by_name_and_in_lists_are_told_apart() -> None:
    x = meta(2, 3, 4)
    kept = on_shapes(aten.sum.dim_IntList, (x, [1]), {"keepdim": True})
    assert kept.shape == (2, 1, 4)
    assert on_shapes(aten.sum.dim_IntList, (x, [1]), {"keepdim": False}).shape == (2, 4)
    assert on_shapes(aten.sum.dim_IntList, (x, [2]), {}).shape == (2, 3)
    assert frozen([1]) != frozen((1,))
    assert frozen({"a": 1}) != frozen({"b": 1})
    assert on_shapes(aten.cat.default, ([meta(2, 3), meta(2, 5)], 1), {}).shape == (2, 8)
    assert on_shapes(aten.cat.default, ([meta(2, 5), meta(2, 5)], 1), {}).shape == (2, 10)


@pytest.mark.usefixtures("double")
def test_the_default_type_is_part_of_the_question() -> None:
    args, kwargs = ([2], 1.0), {"device": torch.device("meta")}
    assert on_shapes(aten.full.default, args, kwargs).dtype is torch.float64
    torch.set_default_dtype(torch.float32)
    assert on_shapes(aten.full.default, args, kwargs).dtype is torch.float32


def test_what_fails_fails_each_time_with_its_own_error() -> None:
    for _ in range(2):
        with pytest.raises(RuntimeError, match="invalid for input"):
            on_shapes(aten.reshape.default, (meta(2, 3), [4]), {})


def test_a_view_may_reach_into_memory_that_its_shape_does_not_show() -> None:
    part = meta(10)[:2]
    assert on_shapes(aten.as_strided.default, (part, [5], [2]), {}).shape == (5,)


def test_tensors_with_data_are_computed() -> None:
    for value in (1.0, 2.0):
        x = torch.full((2,), value)
        assert on_shapes(aten.add.Tensor, (x, x), {}).tolist() == [2 * value] * 2


@pytest.mark.parametrize(
    "tensor",
    [
        torch.empty(2),
        torch.empty(2, device="meta", requires_grad=True),
        torch.empty(2, dtype=torch.complex64, device="meta").conj(),
        torch.nn.Parameter(torch.empty(2, device="meta"), requires_grad=False),
    ],
)
def test_a_tensor_that_is_more_than_its_shape_is_no_key(tensor: Tensor) -> None:
    with pytest.raises(Unfit):
        frozen(tensor)


def test_every_element_of_a_mask_counts_as_set() -> None:
    mask = meta(3, 4, dtype=torch.bool)
    assert on_shapes(aten.nonzero.default, (mask,), {}).shape == (12, 2)
    assert on_shapes(aten.index.Tensor, (meta(3, 4, 5), [mask]), {}).shape == (12, 5)

"""The hash that is computed where a tensor is."""

from __future__ import annotations

import pytest
import torch
from knbench.benchmark.models.weights import digest_in_place


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int8])
def test_each_change_of_a_bit_changes_the_digest_and_chunks_do_not(dtype):
    torch.manual_seed(0)
    tensor = (100 * torch.randn(7, 5)).to(dtype)
    digest = digest_in_place(tensor)
    assert len(digest) == 16
    assert digest == digest_in_place(tensor.clone(), chunk=4) == digest_in_place(tensor.T.contiguous().T)
    seen = {digest}
    raw = tensor.reshape(-1).view(torch.uint8)
    for byte in range(0, len(raw), 3):
        raw[byte] ^= 1 << (byte % 8)
        seen.add(digest_in_place(tensor))
        raw[byte] ^= 1 << (byte % 8)
    assert len(seen) == 1 + len(range(0, len(raw), 3))
    assert digest_in_place(tensor) == digest


def test_swapped_values_and_signs_of_zero_are_changes():
    one = torch.tensor([1.0, 2.0, 0.0])
    others = [torch.tensor(v) for v in ([2.0, 1.0, 0.0], [1.0, 2.0, -0.0], [1.0, 0.0, 2.0], [-1.0, -2.0, 0.0])]
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        assert len({digest_in_place(tensor.to(dtype)) for tensor in (one, *others)}) == 5

"""The fused passes of a dream step against torch's, and what they promise of a column."""

import numpy as np
import pytest
import torch

from worldmodels.memory.passes import FusedPasses, TorchPasses, compiled, passes_for

H, Z, K, A, F = 9, 5, 3, 2, 14
WIDTHS = (32, 64, 352)


def draw(*shape, seed=0, scale=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def by_lstm(passes, dtype, width, scale=3.0):
    """c and h after a step."""
    c, h = draw(H, width, seed=1, scale=scale), torch.empty(H, width, dtype=dtype)
    passes.lstm(draw(4 * H, width, scale=scale).to(dtype), c, h)
    return c, h


def by_sample(passes, dtype, width, scale=3.0):
    z, uniform = torch.empty(Z, width, dtype=dtype), torch.rand(Z, width, generator=torch.Generator().manual_seed(2))
    passes.sample(draw(3 * K * Z, width, scale=scale).to(dtype), 0.9, uniform, draw(Z, width, seed=3), z)
    return z,


def by_weighted_sums(passes, dtype, width, scale=3.0):
    sums = torch.empty(A, width)
    passes.weighted_sums(draw(A, F, width), draw(F, width, seed=1, scale=scale), sums)
    return sums,


PASSES = (by_lstm, by_sample, by_weighted_sums)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("result", PASSES)
@pytest.mark.parametrize("scale", (0.1, 3.0, 40.0))
def test_a_fused_pass_computes_what_torchs_does(result, dtype, scale):
    """To rounding, from the linear range of the gates to saturated ones, at widths with and without a remainder."""
    for width in (1, 31, 256):
        for found, expected in zip(*(result(passes, dtype, width, scale) for passes in (FusedPasses, TorchPasses))):
            assert found.dtype == expected.dtype
            rtol = 2**-7 if found.dtype == torch.bfloat16 else 2e-5
            torch.testing.assert_close(found, expected, rtol=rtol, atol=1e-5)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
def test_a_column_is_the_same_to_the_last_bit_wherever_it_lies_and_whatever_lies_beside_it(dtype):
    widest = max(WIDTHS)
    sums, c, raw = draw(4 * H, widest, scale=3).to(dtype), draw(H, widest, seed=1), draw(3 * K * Z, widest).to(dtype)
    uniform, normal = torch.rand(Z, widest), draw(Z, widest, seed=3)
    weights, x = draw(A, F, widest), draw(F, widest, seed=4)

    def results(columns):
        sums_, c_, raw_, uniform_, normal_, weights_, x_ = (
            t[..., columns].contiguous() for t in (sums, c, raw, uniform, normal, weights, x))
        h, z, acts = c_.to(dtype), normal_.to(dtype), x_[:A].clone()
        FusedPasses.lstm(sums_, c_, h)
        FusedPasses.sample(raw_, 1.1, uniform_, normal_, z)
        FusedPasses.weighted_sums(weights_, x_, acts)
        return c_, h, z, acts

    together = results(torch.arange(widest))
    for width in WIDTHS:
        columns = torch.randperm(widest, generator=torch.Generator().manual_seed(width))[:width]
        for found, expected in zip(results(columns), together):
            assert torch.equal(found, expected[:, columns])


@pytest.mark.parametrize("passes", (FusedPasses, TorchPasses))
def test_what_is_no_number_stays_none_and_in_its_column(passes):
    sums, c, h = torch.zeros(4 * H, 32), torch.zeros(H, 32), torch.empty(H, 32)
    sums[:, 3] = torch.nan
    passes.lstm(sums, c, h)
    raw, z = torch.zeros(3 * K * Z, 32), torch.empty(Z, 32)
    raw[:, 3] = torch.nan
    passes.sample(raw, 1.0, torch.full((Z, 32), 0.5), torch.zeros(Z, 32), z)
    for found in (c, h, z):
        assert found[:, 3].isnan().all() and not found[:, :3].isnan().any() and not found[:, 4:].isnan().any()


def test_bfloat16_is_rounded_as_torch_rounds_it():
    """To the nearest, of two the even one: c passes through the gates as it is, and is written as h."""
    sums = torch.tensor([-200.0, 200.0, 200.0, 0.0])[:, None].expand(4, 4096).contiguous()     # i 0, f 1, o 1
    halfway = (torch.arange(4096, dtype=torch.int32) * 0x8000 + 0x3c000000).view(torch.float32)
    c, h = halfway[None].clone(), torch.empty(1, 4096, dtype=torch.bfloat16)
    FusedPasses.lstm(sums, c, h)
    torch.testing.assert_close(c[0], halfway, rtol=1e-6, atol=0)
    wide = torch.empty(1, 4096)
    FusedPasses.lstm(sums, halfway[None].clone(), wide)
    assert torch.equal(h, wide.bfloat16())


def test_only_float32_on_a_cpu_is_fused():
    assert passes_for(torch.zeros(1)) is FusedPasses
    assert passes_for(torch.zeros(1).double()) is passes_for(torch.zeros(1, device="meta")) is TorchPasses


def test_where_nothing_can_be_kept_a_function_is_compiled_all_the_same():
    """Here it has no file that what is compiled could lie beside."""
    space = {}
    exec("def double(x):\n    x *= 2\n", space)
    x = np.ones(3)
    compiled(space["double"])(x)
    assert x.tolist() == [2, 2, 2]

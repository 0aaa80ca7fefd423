"""The MDN-RNN's dreamer whose products are bfloat16."""

import pytest
import torch

from worldmodels.memory import MEMORIES, MDNRNNConfig
from worldmodels.memory.gru import GRUConfig
from worldmodels.memory.mdn_rnn_dreamer import MDNRNNDreamer
from worldmodels.memory.noise import draw
from worldmodels.memory.unroll import advance
from worldmodels.training import cpu_has_bfloat16
from worldmodels.types import UserError

Z, A, WIDEST, STEPS = 4, 2, 96, 5
VARIANTS = {
    "plain": MDNRNNConfig(hidden_size=24),
    "paper's size": MDNRNNConfig(),
    "paper's TakeCover": MDNRNNConfig(hidden_size=24, restart_input=True, cell_feature=True, death="threshold"),
    "sees_current_frame, head": MDNRNNConfig(hidden_size=24, sees_current_frame=True, head_size=8)}
needs_bfloat16 = pytest.mark.skipif(not cpu_has_bfloat16(), reason="needs a CPU with bfloat16")


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS)
def memory(request):
    torch.manual_seed(0)
    return MEMORIES[request.param.kind](request.param, Z, A).requires_grad_(False)


def dreamt(memory, columns, bfloat16):
    """Features, rewards and p_done [steps, ..., B] of the dreams `columns` of WIDEST."""
    generator = torch.Generator().manual_seed(1)
    start = memory.initial(torch.randn(WIDEST, Z, generator=generator)).select(columns)
    noise, size = draw(memory.imagine_noise, WIDEST, generator, torch.zeros(1)), len(columns)
    chances = ({part: numbers[columns].t() for part, numbers in next(noise).items()} for _ in range(STEPS))
    dreamer, features, moments = memory.dreamer(size, 0.9, bfloat16), [], []
    dreamer.load(start)
    for _, reward, p_done, _ in advance(dreamer, lambda x: x[:A].sin(), chances):
        features.append(dreamer.features().clone())
        moments.append(torch.stack([reward, p_done]))
    return torch.stack(features), torch.stack(moments)


@needs_bfloat16
def test_it_dreams_what_float32_does_to_a_few_digits(memory):
    """As long as no other component of the mixture is drawn: which may happen to a few."""
    columns = torch.arange(WIDEST)
    for found, expected in zip(dreamt(memory, columns, True), dreamt(memory, columns, False)):
        assert found.dtype == torch.float32 and not torch.equal(found, expected)
        assert ((found - expected).abs() < 0.05).float().mean() > 0.95


@needs_bfloat16
def test_a_dream_is_the_same_to_the_last_bit_whatever_is_dreamt_beside_it(memory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)                                    # as workers have it
    try:
        together = dreamt(memory, torch.arange(WIDEST), True)
        for width in (32, 64):
            columns = torch.randperm(WIDEST)[:width]
            for found, expected in zip(dreamt(memory, columns, True), together):
                assert torch.equal(found, expected[..., columns])
    finally:
        torch.set_num_threads(threads)


def test_a_cpu_without_bfloat16_says_so(monkeypatch):
    memory = MEMORIES["mdn_rnn"](MDNRNNConfig(hidden_size=8), Z, A)
    for capabilities in ({}, {"avx512_bf16": False, "avx2": True}):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found, raising=False)
        with pytest.raises(UserError, match="--dream.precision bfloat16: this CPU has neither"):
            memory.dreamer(32, 1.0, bfloat16=True)
        assert isinstance(memory.dreamer(32, 1.0), MDNRNNDreamer)


def test_a_memory_without_a_dreamer_of_its_own_has_no_bfloat16():
    with pytest.raises(UserError, match="a memory of kind gru dreams in float32 alone"):
        MEMORIES["gru"](GRUConfig(hidden_size=8), Z, A).dreamer(32, 1.0, bfloat16=True)

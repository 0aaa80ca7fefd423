"""Where chance comes from: a rollout's is a function of its seed, whatever is drawn beside it and in what portions."""

import pytest
import torch

from worldmodels.memory.noise import BLOCK, IMAGINE, OBSERVE, NoiseStream, draw
from worldmodels.types import NoiseSize

SIZE = NoiseSize({"component": 3, "done": 1}, {"z": 3})
LIKE = torch.zeros(1)


def steps(stream, count):
    """[count, seeds, n] by part."""
    rows = [stream.step() for _ in range(count)]
    return {part: torch.stack([row[part] for row in rows]) for part in rows[0]}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[part], b[part]) for part in a)


def test_blocks_are_the_same_numbers_as_single_steps():
    by_step, stream = steps(NoiseStream([5, 9], SIZE, LIKE), 3 * BLOCK), NoiseStream([5, 9], SIZE, LIKE)
    blocks = torch.cat([stream.block() for _ in range(3)])                          # [steps, U + N, seeds]
    assert blocks.shape == (3 * BLOCK, 7, 2) and blocks.is_contiguous()
    assert equal({part: n.transpose(1, 2) for part, n in SIZE.split(blocks, 1).items()}, by_step)


def test_a_seeds_noise_does_not_depend_on_others():
    together = steps(NoiseStream([4, 5, 6], SIZE, LIKE), 20)
    alone = steps(NoiseStream([5], SIZE, LIKE), 20)
    assert equal({part: numbers[:, 1:2] for part, numbers in together.items()}, alone)
    assert not torch.equal(together["z"][:, 0], together["z"][:, 1])


def test_streams_of_a_seed_are_apart():
    imagine, observe = (steps(NoiseStream([5], SIZE, LIKE, stream), 4) for stream in (IMAGINE, OBSERVE))
    assert not (imagine["z"] == observe["z"]).any()


def test_selected_seeds_go_on_where_they_were_and_joined_ones_begin():
    whole = steps(NoiseStream([1, 2, 3], SIZE, LIKE), 2 * BLOCK)
    late = steps(NoiseStream([7], SIZE, LIKE), BLOCK)
    stream = NoiseStream([1, 2, 3], SIZE, LIKE)
    steps(stream, 5)
    stream.select([2, 0])
    stream.join(NoiseStream([7], SIZE, LIKE))
    found = steps(stream, BLOCK)
    for part in found:
        assert torch.equal(found[part][:, :2], whole[part][5:5 + BLOCK, [2, 0]])
        assert torch.equal(found[part][:, 2:], late[part])


def test_selection_holds_for_blocks_too():
    stream, alone = NoiseStream([1, 2, 3], SIZE, LIKE), NoiseStream([3], SIZE, LIKE)
    stream.block(), alone.block()
    stream.select([2])
    assert torch.equal(stream.block(), alone.block())


def test_uniform_parts_are_uniform_and_normal_ones_normal():
    found = steps(NoiseStream(range(50), SIZE, LIKE), 100)
    uniform = torch.cat([found["component"].flatten(), found["done"].flatten()])
    assert ((0 <= uniform) & (uniform < 1)).all()
    assert abs(uniform.mean() - 0.5) < 0.01 and abs(uniform.std() - 12**-0.5) < 0.01
    assert abs(found["z"].mean()) < 0.03 and abs(found["z"].std() - 1) < 0.02 and found["z"].min() < -3


def test_numbers_are_split_into_parts_in_their_order():
    numbers = torch.arange(14.0).view(2, 7)
    parts = SIZE.split(numbers)
    assert {part: n.shape[1] for part, n in parts.items()} == {"component": 3, "done": 1, "z": 3}
    assert torch.equal(torch.cat(list(parts.values()), 1), numbers)
    assert equal({part: n.t() for part, n in SIZE.split(numbers.t(), 0).items()}, parts)
    assert SIZE.total() == (4, 3) and NoiseSize().total() == (0, 0) and NoiseSize().split(numbers[:, :0]) == {}


def test_one_generator_draws_step_after_step():
    first, again = ([next(noise) for _ in range(3)] for noise in
                    (draw(SIZE, 40, torch.Generator().manual_seed(1), LIKE) for _ in range(2)))
    assert all(map(equal, first, again)) and not equal(first[0], first[1])
    assert all(numbers.shape == (40, {"component": 3, "done": 1, "z": 3}[part]) for part, numbers in first[0].items())
    assert all(((0 <= step["done"]) & (step["done"] < 1)).all() and (step["z"] < 0).any() for step in first)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_noise_has_the_type_of_what_it_is_for(dtype):
    like = torch.zeros(1, dtype=dtype)
    assert NoiseStream([0], SIZE, like).step()["z"].dtype == dtype
    assert NoiseStream([0], SIZE, like).block().dtype == dtype
    assert next(draw(SIZE, 2, torch.Generator(), like))["z"].dtype == dtype


def test_a_memory_without_chance_needs_no_noise():
    assert NoiseStream([0, 1], NoiseSize(), LIKE).step() == {}
    assert next(draw(NoiseSize(), 2, torch.Generator(), LIKE)) == {}

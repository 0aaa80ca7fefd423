"""What every kind of controller made of a vector of parameters keeps to: the conformance tests of CONTROLLERS. The
planner's are in test_cem.py."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from worldmodels.controller import CONTROLLERS, PolicySpec, build
from worldmodels.controller.policy import visible
from worldmodels.envs import TASKS
from worldmodels.memory import MDNRNN, MDNRNNConfig
from worldmodels.types import State

VARIANTS = {                                    # the settings that each kind is tested with
    "linear": {"": {}, "without a bias": {"bias": False}},
    "mlp": {"": {"hidden_size": 5}, "one unit": {"hidden_size": 1}},
    "actor": {"": {"units": 5, "layers": 2}, "one layer": {"units": 5, "layers": 1}},
}
B, Z, H = 6, 4, 3


@pytest.fixture(params=("car_racing", "toy"))
def agent(request):
    """A task, and a memory whose features are z, c, h."""
    task = TASKS[request.param]
    memory = MDNRNN(MDNRNNConfig(hidden_size=H, cell_feature=True), Z, task.action_size)
    return SimpleNamespace(task=task, memory=memory)


@pytest.fixture(params=[pytest.param((kind, settings), id=f"{kind} {name}".strip())
                        for kind, variants in VARIANTS.items() for name, settings in variants.items()])
def chosen(request):
    return request.param


@pytest.fixture(params=("all", "z", "h"))
def config(chosen, request):
    kind, settings = chosen
    return CONTROLLERS[kind].Config(sees=request.param, **settings)


def make_spec(config, agent, members=B, seed=0):
    size = CONTROLLERS[config.kind].size(config, agent)
    return PolicySpec(config, {"parameters": np.random.default_rng(seed).normal(size=(members, size))})


def make_policy(config, agent, members=B):
    policy = build(make_spec(config, agent, members), agent)
    policy.reset(range(B))
    return policy


def make_state(batch=B, seed=0):
    return State(torch.randn(batch, Z + 2 * H, generator=torch.Generator().manual_seed(seed)), ())


def acts(config, agent):
    """Which of a row's parameters have a part in what is done, [n]: all, but for those of an actor's last layer [I + 1,
    2A] that make sigma, its last A columns."""
    found = np.ones(CONTROLLERS[config.kind].size(config, agent), bool)
    if config.kind == "actor":
        last = found[-(config.units + 1) * 2 * agent.task.action_size:].reshape(config.units + 1, -1)
        last[:, agent.task.action_size:] = False
    return found


def with_ones(state):
    """As a dreamer has them, [F + 1, B]."""
    return torch.cat([state.features, torch.ones(len(state.features), 1)], 1).t()


def test_every_kind_is_tested():
    assert VARIANTS.keys() | {"cem"} == CONTROLLERS.keys()
    assert all(cls.Config.kind == kind for kind, cls in CONTROLLERS.items())


@pytest.mark.parametrize("members", (B, 1))
def test_acting_on_a_state_is_acting_on_features_with_the_batch_last(config, agent, members):
    policy = make_policy(config, agent, members)
    for seed in range(3):
        state = make_state(seed=seed)
        torch.testing.assert_close(policy.act(with_ones(state)).t(), policy(state))
    policy.select_and_reset(torch.tensor([4, 1]), ())
    state = make_state(2)
    torch.testing.assert_close(policy.act(with_ones(state)).t(), policy(state))


def test_actions_lie_in_the_tasks_space_and_differ(config, agent):
    policy, state = make_policy(config, agent), make_state()
    for scale in (0.1, 1.0, 100.0):
        action = policy(State(scale * state.features, ()))
        assert action.shape == (B, agent.task.action_size) and action.dtype == torch.float32
        assert all(agent.task.action_space.contains(row.numpy()) for row in action)
    assert torch.pdist(policy(state)).min() > 0


def test_every_parameter_matters_and_there_are_as_many_as_stated(config, agent):
    """A row with another one of them is another controller, unless it makes sigma; of a row of another length none can
    be made."""
    agent.task = replace(agent.task, squash=lambda x: x, smooth=None)       # a clipped action shows less
    size = CONTROLLERS[config.kind].size(config, agent)
    row = np.random.default_rng(0).normal(size=size)
    spec = PolicySpec(config, {"parameters": row + 0.5 * np.concatenate([np.zeros((1, size)), np.eye(size)])})
    policy = build(spec, agent)
    policy.reset(range(size + 1))
    actions = torch.stack([policy(State(make_state(1, seed).features.expand(size + 1, -1), ())) for seed in range(10)])
    # the last rows of a batch may be rounded otherwise
    changed = ((actions[:, 1:] - actions[:, :1]).abs() > 1e-5).any(2).any(0)
    np.testing.assert_array_equal(changed, acts(config, agent))
    for wrong in (row[:-1], np.append(row, 0.0)):
        with pytest.raises(RuntimeError):
            policy = build(PolicySpec(config, {"parameters": wrong[None]}), agent)
            policy.reset([0])
            policy(make_state(1))


def test_what_it_does_not_see_does_not_matter_and_all_that_it_sees_does(config, agent):
    policy, state = make_policy(config, agent), make_state()
    seen = visible(config.sees, agent.memory.feature_sizes)
    assert seen == {"all": slice(0, Z + 2 * H), "z": slice(0, Z), "h": slice(Z, Z + 2 * H)}[config.sees]
    for f in range(Z + 2 * H):
        other = state.features.clone()
        other[:, f] += 0.5
        for act in (policy, lambda state: policy.act(with_ones(state))):
            assert torch.equal(act(State(other, ())), act(state)) == (f not in range(seen.start, seen.stop))


def test_each_rollout_has_a_row_of_its_own_in_the_order_in_which_rollouts_begin(config, agent):
    """Through two turns: some rollouts are left, others begin behind them."""
    spec, state = make_spec(config, agent, 9), make_state()
    policy = build(spec, agent)
    policy.reset([10, 11, 12, 13])
    rows, begun = [0, 1, 2, 3], 4
    for index, count in (([3, 1], 2), ([0, 1, 3], 3), ([5, 2], 0)):
        policy.select_and_reset(torch.tensor(index), range(count))
        rows, begun = [rows[i] for i in index] + list(range(begun, begun + count)), begun + count
        expected = build(spec.select(np.array(rows)), agent)
        expected.reset(range(len(rows)))
        state = make_state(len(rows))
        torch.testing.assert_close(policy(state), expected(state))
        torch.testing.assert_close(policy.act(with_ones(state)), expected.act(with_ones(state)))
    assert rows == [8, 5]


def test_a_reset_begins_with_the_first_row_again(config, agent):
    policy, state = make_policy(config, agent), make_state()
    before = policy(state)
    policy.select_and_reset(torch.tensor([2]), ())
    policy.reset(range(B))
    assert torch.equal(policy(state), before)


def test_one_row_serves_however_many_rollouts(config, agent):
    policy, state = make_policy(config, agent, 1), make_state()
    same = State(state.features[:1].expand(B, -1), ())
    action = policy(same)
    torch.testing.assert_close(action, action[:1].expand(B, -1))
    policy.select_and_reset(torch.tensor([5, 0]), range(20))
    assert policy(make_state(22)).shape == (22, agent.task.action_size)
    repeated = build(make_spec(config, agent, 1).select(np.zeros(22, int)), agent)
    repeated.reset(range(22))
    torch.testing.assert_close(policy(make_state(22)), repeated(make_state(22)))


def test_a_batch_acts_as_each_of_its_controllers_alone(config, agent):
    spec, state = make_spec(config, agent), make_state()
    together = make_policy(config, agent)
    for b in range(B):
        alone = build(spec.select(np.array([b])), agent)
        alone.reset([b])
        mine = state.select(torch.tensor([b]))
        torch.testing.assert_close(alone(mine), together(state)[b:b + 1])
        torch.testing.assert_close(alone.act(with_ones(mine)), together.act(with_ones(state))[:, b:b + 1])


def test_a_selected_spec_is_a_spec_of_the_same_config(config, agent):
    spec = make_spec(config, agent)
    some = spec.select(np.array([4, 4, 0]))
    assert some.config is spec.config and some.arrays.keys() == spec.arrays.keys()
    for name, array in some.arrays.items():
        np.testing.assert_array_equal(array, spec.arrays[name][[4, 4, 0]])
    policy, expected = build(some, agent), build(spec, agent)
    policy.reset(range(3)), expected.reset(range(B))
    expected.select_and_reset(torch.tensor([4, 4, 0]), ())
    torch.testing.assert_close(policy(make_state(3)), expected(make_state(3)))


def test_a_policy_becomes_another_one_where_its_tensors_are_overwritten(config, agent):
    """As a population finds its place in a recorded CUDA graph."""
    state = make_state()
    policies = [build(make_spec(config, agent, seed=seed), agent) for seed in (0, 1)]
    for policy in policies:
        policy.reset(range(B))
        policy.act(with_ones(state))
    policy, other = policies
    assert not torch.allclose(policy.act(with_ones(state)), other.act(with_ones(state)))
    for old, new in zip(policy.tensors(), other.tensors(), strict=True):
        old.copy_(new)
    assert torch.equal(policy.act(with_ones(state)), other.act(with_ones(state)))

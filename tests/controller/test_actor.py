"""The learned actor and its critics: their densities and values against closed forms, and actions that have a
gradient."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.distributions import Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from worldmodels.controller import PolicySpec, build
from worldmodels.controller.actor import (
    BINS,
    CRITICS,
    LARGEST,
    MAX_STD,
    MEAN,
    MIN_STD,
    ActorConfig,
    ActorPolicy,
    TwoHot,
    critic_sizes,
    log_density,
    normal_of,
    symexp,
    symlog,
)
from worldmodels.controller.network import parameter_count
from worldmodels.envs import TASKS
from worldmodels.memory import MDNRNN, MDNRNNConfig
from worldmodels.types import State

RETURNS = torch.tensor([-20_000.0, -300.0, -7.5, -1.0, -0.03, 0.0, 0.4, 1.0, 12.3, 950.0, 21_000.0])


def test_mu_and_sigma_are_bounded():
    """However large an output is. Near zero mu is the output itself; sigma begins at 0.9."""
    mean, std = normal_of(torch.tensor([[-1e6, 0.0, 0.01, 1e6] + [-1e6, 0.0, 0.01, 1e6]]))
    torch.testing.assert_close(mean, torch.tensor([[-MEAN, 0.0, 0.01, MEAN]]))
    torch.testing.assert_close(std[0, [0, 3]], torch.tensor([MIN_STD, MAX_STD]))
    assert std[0, 1] == pytest.approx(MIN_STD + (MAX_STD - MIN_STD) / (1 + np.exp(-2)))
    mean, std = normal_of(10 * torch.randn(3, 50, 6))
    assert mean.shape == std.shape == (3, 50, 3)
    assert mean.abs().max() <= MEAN and std.min() >= MIN_STD and std.max() <= MAX_STD


@pytest.mark.parametrize("actions", (1, 3))
def test_the_density_is_that_of_a_normal_number_after_tanh_but_for_a_constant(actions):
    u, mean = 2 * torch.randn(2, 200, actions, dtype=torch.float64)
    std = 0.1 + torch.rand(200, actions, dtype=torch.float64)
    squashed = TransformedDistribution(Normal(mean, std), TanhTransform(cache_size=1))
    expected = squashed.log_prob(squashed.transforms[0](u)).sum(-1)
    difference = expected - log_density(u, mean, std)
    torch.testing.assert_close(difference, difference[:1].expand(200))


def test_the_density_of_an_action_at_the_end_of_its_box_is_finite_and_so_is_its_gradient():
    u = torch.tensor([[-80.0], [80.0]], requires_grad=True)
    density = log_density(u, torch.zeros(2, 1), torch.ones(2, 1))
    density.sum().backward()
    assert density.isfinite().all() and u.grad.isfinite().all()


def test_symexp_is_the_inverse_of_symlog():
    torch.testing.assert_close(symexp(symlog(RETURNS)), RETURNS, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(symlog(RETURNS), RETURNS.sign() * (1 + RETURNS.abs()).log())
    assert (symlog(RETURNS).diff() > 0).all()


def test_two_values_share_a_return_so_that_it_is_their_mean():
    """The weights that the loss gives the log-probabilities: at most two, beside each other, and with the return as
    their mean."""
    log_p = torch.zeros(len(RETURNS), BINS, requires_grad=True)
    TwoHot.loss(log_p, RETURNS).sum().backward()
    weights = log_p.detach().softmax(-1) - log_p.grad           # d loss / d logits = p - weights
    torch.testing.assert_close(weights @ TwoHot.bins, RETURNS, rtol=1e-4, atol=0.02)
    for row in (weights > 1e-5):
        there = row.nonzero()[:, 0]
        assert len(there) in (1, 2) and there[-1] - there[0] == len(there) - 1


def test_the_value_of_two_hot_targets_is_the_target():
    """And the loss is least there."""
    target, bins = RETURNS.double(), TwoHot.bins.double()
    above = (bins > target[:, None]).int().argmax(-1)
    low, high = bins[above - 1], bins[above]
    p = torch.full((len(target), BINS), 1e-12, dtype=torch.float64)
    p.scatter_(1, above[:, None], ((target - low) / (high - low))[:, None])
    p.scatter_(1, above[:, None] - 1, ((high - target) / (high - low))[:, None])
    logits = p.clamp(min=1e-12).log()
    torch.testing.assert_close(TwoHot.value(logits), target, rtol=1e-4, atol=1e-4)
    least = TwoHot.loss(logits, target)
    for _ in range(20):
        assert (TwoHot.loss(logits + 0.5 * torch.randn_like(logits), target) > least).all()


def test_a_return_beyond_all_values_counts_as_the_last():
    logits, last = torch.randn(2, BINS), TwoHot.bins[[0, -1]]
    assert last.abs().log1p().tolist() == pytest.approx([LARGEST, LARGEST])
    torch.testing.assert_close(TwoHot.loss(logits, 10 * last), TwoHot.loss(logits, last))


@pytest.mark.parametrize("critic", CRITICS)
def test_a_step_of_the_loss_moves_the_value_towards_the_return(critic):
    """From outputs of zero, whose value is zero."""
    cls, target = CRITICS[critic], 3 * torch.randn(5, 4)
    outputs = torch.zeros(5, 4, cls.outputs, requires_grad=True)
    loss = cls.loss(outputs, target)
    assert loss.shape == cls.value(outputs).shape == (5, 4)
    loss.sum().backward()
    assert cls.value(outputs.detach()).abs().max() < 2e-3           # that of two-hot outputs is rounded
    after = cls.value(outputs.detach() - 0.1 * outputs.grad)
    assert ((after - cls.value(outputs.detach())) * target > 0).all()


@pytest.mark.parametrize("critic", CRITICS)
def test_gradient_descent_ends_where_the_value_is_the_return(critic):
    cls, target = CRITICS[critic], torch.tensor([-30.0, -0.5, 0.0, 2.0, 150.0])
    outputs = torch.zeros(5, cls.outputs, requires_grad=True)
    optimizer = torch.optim.Adam([outputs], {"value": 15.0, "symlog": 0.3, "two_hot": 0.3}[critic])
    for _ in range(400):
        for group in optimizer.param_groups:
            group["lr"] *= 0.985
        optimizer.zero_grad()
        cls.loss(outputs, target).sum().backward()
        optimizer.step()
    torch.testing.assert_close(cls.value(outputs.detach()), target, rtol=0.02, atol=0.1)


def test_value_is_learnt_by_half_the_squared_error_and_symlog_by_that_of_symlogs():
    outputs = torch.randn(len(RETURNS), 1)
    torch.testing.assert_close(CRITICS["value"].loss(outputs, RETURNS), 0.5 * (outputs[:, 0] - RETURNS)**2)
    assert torch.equal(CRITICS["value"].value(outputs), outputs[:, 0])
    torch.testing.assert_close(CRITICS["symlog"].loss(outputs, RETURNS), 0.5 * (outputs[:, 0] - symlog(RETURNS))**2)
    torch.testing.assert_close(CRITICS["symlog"].value(symlog(RETURNS)[:, None]), RETURNS, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_smooth_actions_lie_in_the_tasks_box_and_all_have_a_gradient(task):
    x = torch.linspace(-4, 4, 801)[:, None].repeat(1, task.action_size).requires_grad_()
    action = task.smooth_squash(x)
    action.sum().backward()
    assert all(task.action_space.contains(row.numpy()) for row in action.detach())
    assert (x.grad > 1e-5).all()
    for far in (-1e3, 1e3):
        assert task.action_space.contains(task.smooth_squash(torch.full((1, task.action_size), far))[0].numpy())


def test_car_racings_smooth_actions_are_those_of_squash_but_for_the_brake():
    """Which is next to nothing where the network puts out nothing."""
    x = torch.randn(50, 3)
    smooth, plain = (squash(x) for squash in (TASKS["car_racing"].smooth_squash, TASKS["car_racing"].squash))
    torch.testing.assert_close(smooth[:, :2], plain[:, :2])
    torch.testing.assert_close(smooth[:, 2], (torch.tanh(x[:, 2] - 2) + 1) / 2)
    assert TASKS["car_racing"].smooth_squash(torch.zeros(1, 3))[0, 2] < 0.02


@pytest.fixture(params=CRITICS)
def critics(request):
    """An agent, and six policies with critics of a kind."""
    agent = SimpleNamespace(task=TASKS["toy"], memory=MDNRNN(MDNRNNConfig(hidden_size=3), 4, 1))
    config, rng = ActorConfig(units=5, critic=request.param, sees="h"), np.random.default_rng(0)
    count = parameter_count(critic_sizes(config, agent))
    spec = PolicySpec(config, {"parameters": rng.normal(size=(6, ActorPolicy.size(config, agent))),
                               "critic": 0.3 * rng.normal(size=(6, count))})
    return agent, spec


def values_alone(agent, spec, rows, features):
    """What each of some policies values features [F + 1, B] at, [rows, B]."""
    found = []
    for row in rows:
        policy = build(spec.select(np.array([row])), agent)
        policy.reset(range(features.shape[1]))
        found.append(policy.value(features))
    return torch.stack(found)


def features_of(batch):
    return torch.cat([torch.randn(7, batch), torch.ones(1, batch)])


def test_each_rollout_has_the_critic_of_its_policy(critics):
    """Also where it is imagined several times, beside each other; and after others have left."""
    agent, spec = critics
    policy = build(spec, agent)
    policy.reset(range(4))
    for rows, index, begin in (([0, 1, 2, 3], None, 0), ([3, 1, 4], [3, 1], 1), ([4, 1], [2, 1], 0)):
        if index:
            policy.select_and_reset(torch.tensor(index), range(begin))
        for times in (1, 3):
            features = features_of(times * len(rows))
            mine = torch.arange(len(rows)).repeat_interleave(times)
            expected = values_alone(agent, spec, rows, features)[mine, torch.arange(times * len(rows))]
            torch.testing.assert_close(policy.value(features), expected, rtol=1e-4, atol=1e-4)


def test_a_rollout_that_is_left_alone_keeps_its_own_critic(critics):
    agent, spec = critics
    policy = build(spec, agent)
    policy.reset(range(4))
    policy.select_and_reset(torch.tensor([2]), ())
    features = features_of(1)
    torch.testing.assert_close(policy.value(features), values_alone(agent, spec, [2], features)[0], rtol=1e-4,
                               atol=1e-4)


def test_one_critic_serves_however_many_rollouts(critics):
    agent, spec = critics
    policy, features = build(spec.select(np.array([5])), agent), features_of(30)
    policy.reset(range(10))
    torch.testing.assert_close(policy.value(features), values_alone(agent, spec, [5], features)[0])


def test_a_critic_does_not_change_what_is_done(critics):
    agent, spec = critics
    state, policies = State(torch.randn(6, 7), ()), []
    for arrays in (spec.arrays, {"parameters": spec.arrays["parameters"]}):
        policies.append(build(PolicySpec(spec.config, arrays), agent))
        policies[-1].reset(range(6))
    assert torch.equal(policies[0](state), policies[1](state))

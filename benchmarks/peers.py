"""Our RSSM against others' of the same sizes, on the CPU: a step of training, and imagination.

    pip install -c constraints.txt -e '.[peers]'
    python benchmarks/peers.py [--rounds 15] [--threads 1 2]

Peers are Dreamer V1 of Simulusion and of TorchRL. h, s, units, windows, starts and horizon are Dreamer V1's; latents
and actions are CarRacing's. Latents are given: no side has an encoder. In the place of a peer's decoder, reward model
and continue model it has our head, one network for all (without our 32 sigmas). TorchRL has no loss of the end, and its
activation is elu; Simulusion has ours, relu. Each window lies within one episode.

"train" is forward, loss, backward, clipping and Adam, as each side's own training has them. "imagine" is from every
state of a batch on, by given actions, without gradients, with the rewards; ours draws z and the end in each step too,
Simulusion reads the end. "ours in place" is memory.dreamer(). "gradients" are those of the rewards with respect to the
actions, the model frozen. Lines take turns for --rounds rounds: the median counts; the least is in brackets.
"""

import argparse
import importlib
import math
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent, Normal

from training import trainer, transitions
from turns import in_turns
from worldmodels.memory.heads import network
from worldmodels.memory.noise import draw
from worldmodels.memory.rssm import RSSM, RSSMConfig
from worldmodels.memory.unroll import advance, unroll
from worldmodels.types import Transitions

Z, A, S, H, U = 32, 3, 30, 200, 200                     # latents, actions, s, h, units
B, T, HORIZON, RATE = 50, 50, 15, 6e-4


class Side(NamedTuple):
    parts: dict[str, list[nn.Module]]
    train: Callable[[], object]
    imagine: Callable[[Tensor], Tensor]                 # actions [HORIZON, B * T, A] -> rewards
    in_place: Callable[[Tensor], object] | None = None


class Head(nn.Module):
    """Our head, which a peer reads in several places; computed once for the same features."""

    def __init__(self):
        super().__init__()
        self.network, self.seen = network(S + H, U, Z + 2), None

    def forward(self, *features: Tensor) -> Tensor:
        if self.seen is not features[0]:
            self.seen, self.out = features[0], self.network(torch.cat(features, -1))
        return self.out


def ours(batch: Transitions) -> Side:
    """`loss`; `imagine` by `unroll`, and behind the Dreamer's seam by `advance`."""
    config = RSSMConfig(hidden_size=H, stochastic_size=S, units=U, free_nats=3.0, free_nats_per="mean",
                        kl_prior_weight=1.0, kl_posterior_weight=1.0)               # Dreamer V1
    memory, generator = RSSM(config, Z, A), torch.Generator()
    step = trainer(memory, lambda window: memory.loss(window, None, generator)[0], True, config.clip_value, RATE)
    state = torch.no_grad()(memory.initial)(batch.z.flatten(0, 1), {"s": torch.randn(B * T, S)})
    dreamer, noise = memory.dreamer(B * T, 1.0), draw(memory.imagine_noise, B * T, generator, batch.z)

    def imagine(actions: Tensor) -> Tensor:
        return unroll(memory, actions.transpose(0, 1), state, noise, HORIZON).reward

    def in_place(actions: Tensor) -> list[Tensor]:
        given = iter(actions.transpose(1, 2))
        columns = ({part: numbers.t() for part, numbers in next(noise).items()} for _ in actions)
        dreamer.load(state)
        return [reward.clone() for _, reward, *_ in advance(dreamer, lambda features: next(given), columns)]

    parts = {"input": [memory.input], "GRU": [memory.cell], "prior": [memory.priors], "posterior": [memory.posterior],
             "head": [memory.head, nn.ParameterList([memory.log_sigma])]}
    return Side(parts, partial(step, batch), imagine, in_place)


def simulusion(batch: Transitions) -> Side:
    """models/dreamer.py: update_world_model, and of actor_loss what imagines."""
    from simulusion.configs.dreamer_config import DreamerConfig
    from simulusion.models.dreamer_v1 import DreamerV1
    config = DreamerConfig(deter_size=H, stoch_size=S, obs_embed_size=Z, dense_activation_function="relu",
                           use_disc_model=True, batch_size=B, train_seq_len=T + 1, buffer_size=T + 1)
    dreamer, head = DreamerV1(config, (3, 64, 64), A, "cpu"), Head()
    rssm, dreamer.obs_encoder = dreamer.rssm, lambda z: z
    dreamer.obs_decoder = lambda features: Independent(Normal(head(features)[..., :Z], 1), 1)
    dreamer.reward_model = lambda features: Independent(Normal(head(features)[..., Z:Z + 1], 1), 1)
    dreamer.discount_model = lambda features: Independent(Bernoulli(logits=head(features)[..., Z + 1:]), 1)
    dreamer.world_model_params = [*rssm.parameters(), *head.parameters()]
    dreamer.world_model_opt = torch.optim.Adam(dreamer.world_model_params, RATE)
    dreamer._build_updates()
    z, start = torch.cat([batch.z[:, :1], batch.next_z], 1).transpose(0, 1), rssm.init_state(B * T, "cpu")
    rows = batch.action, batch.reward[..., None], torch.ones(B, T, 1), 1 - batch.terminated[..., None]
    window = z, *(F.pad(x.transpose(0, 1), (0, 0, 0, 0, 0, 1)) for x in rows)       # time first; the last is not read

    def imagine(actions: Tensor) -> Tensor:
        given = iter(actions)
        states = rssm.imagine_rollout(lambda features, deter: next(given), start, HORIZON)
        features = torch.cat([states["stoch"], states["deter"]], -1)
        return (dreamer.reward_model(features).mean, dreamer.discount_model(features).mean)[0]

    parts = {"input": [rssm.fc_state_action], "GRU": [rssm.rnn], "prior": [rssm.fc_embed_prior, rssm.fc_state_prior],
             "posterior": [rssm.fc_embed_posterior, rssm.fc_state_posterior], "head": [head]}
    return Side(parts, lambda: dreamer.update_world_model(*window), imagine)


def torchrl(batch: Transitions) -> Side:
    """sota-implementations/dreamer, which is in its wheel: a step of the loop, and the rollout of DreamerActorLoss."""
    from tensordict import TensorDict
    from tensordict import nn as td
    from torchrl import data, envs, modules, objectives
    sys.path.insert(0, str(Path(data.__file__).parents[2] / "sota-implementations" / "dreamer"))
    made, head, action = importlib.import_module("dreamer_utils"), Head(), data.Bounded(-1, 1, (A,))
    decoder, reward = (lambda *features: head(*features)[..., :Z]), (lambda *features: head(*features)[..., Z:Z + 1])
    prior = modules.RSSMPrior(action, U, H, S, action_dim=A)
    posterior = modules.RSSMPosterior(U, S, rnn_hidden_dim=H, obs_embed_dim=Z)
    loss = objectives.DreamerModelLoss(
        made._dreamer_make_world_model(lambda z: z, decoder, prior, posterior, reward, "z", "mean_z"))
    loss.set_keys(pixels="z", reco_pixels="mean_z")
    window = TensorDict({"state": torch.zeros(B, T, S), "belief": torch.zeros(B, T, H), "action": batch.action,
                         "next": {"z": batch.next_z, "reward": batch.reward[..., None]}}, (B, T))
    weights = nn.ModuleList([prior, posterior, head])
    optimizer = torch.optim.Adam(weights.parameters(), RATE)
    real = envs.DreamerEnv(loss.world_model, (S,), (H,))
    real.observation_spec = data.Composite(state=data.Unbounded((S,)), belief=data.Unbounded((H,)))
    real.action_spec, real.reward_spec = action, data.Unbounded((1,))
    env = made._dreamer_make_mbenv(reward, prior, real, decoder, state_dim=S, rssm_hidden_dim=H)
    start = TensorDict({"state": torch.zeros(B * T, S), "belief": torch.zeros(B * T, H)}, (B * T,))

    def train():
        value = sum(loss(window)[0].values())
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(weights.parameters(), 100)
        optimizer.step()

    def imagine(actions: Tensor) -> Tensor:
        given = iter(actions)
        policy = td.TensorDictModule(lambda *features: next(given), ["state", "belief"], ["action"])
        return env.rollout(HORIZON, policy, auto_reset=False, tensordict=env.reset(start.copy()))["next", "reward"]

    parts = {"input": [prior.action_state_projector], "GRU": [prior.rnn], "prior": [prior.rnn_to_prior_projector],
             "posterior": [posterior], "head": [head]}
    return Side(parts, train, imagine)


def gradients(side: Side, actions: Tensor):
    frozen = nn.ModuleList(sum(side.parts.values(), [])).requires_grad_(False)
    torch.autograd.grad(side.imagine(actions).sum(), actions)
    frozen.requires_grad_(True)


def compare(title: str, works: dict[str, Callable[[], object]], rounds: int):
    least = dict.fromkeys(works, math.inf)

    def timed(name: str):
        start = time.perf_counter()
        works[name]()
        least[name] = min(least[name], time.perf_counter() - start)

    median = in_turns({name: partial(timed, name) for name in works}, rounds)
    print(f"\n{title}, {torch.get_num_threads()} thread(s)")
    for name in works:
        print(f"  {name:18}{1e3 * median[name]:8.1f} ms ({1e3 * least[name]:.1f}); ours takes "
              f"{median['ours'] / median[name]:.2f} of it ({least['ours'] / least[name]:.2f})", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="each line is measured so often; the median counts")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    torch.manual_seed(0)
    batch = transitions(B, T, Z, A, 0, "cpu")._replace(restart=torch.zeros(B, T))
    actions = torch.rand(HORIZON, B * T, A, requires_grad=True)
    sides = {"ours": ours(batch), f"Simulusion {version('simulusion')}": simulusion(batch),
             f"TorchRL {version('torchrl')}": torchrl(batch)}
    print(f"torch {torch.__version__}; windows {B} × {T}, imagined {B * T} × {HORIZON}; parameters")
    for name, side in sides.items():
        sizes = {part: sum(w.numel() for w in nn.ModuleList(m).parameters()) for part, m in side.parts.items()}
        print(f"  {name:18} {sum(sizes.values()):,}:", ", ".join(f"{part} {size:,}" for part, size in sizes.items()))
    imagining = {name: side.imagine for name, side in sides.items()} | {"ours in place": sides["ours"].in_place}
    for threads in options.threads:
        torch.set_num_threads(threads)
        compare("train", {name: side.train for name, side in sides.items()}, options.rounds)
        compare("imagine", {name: partial(torch.no_grad()(work), actions) for name, work in imagining.items()},
                options.rounds)
        compare("gradients", {name: partial(gradients, side, actions) for name, side in sides.items()}, options.rounds)


if __name__ == "__main__":
    main()

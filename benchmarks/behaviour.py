"""A step in which actor and critic learn from imagination, ours against Simulusion's Dreamer V1, on the CPU.

    pip install -c constraints.txt -e '.[peers]'
    python benchmarks/behaviour.py [--rounds 7] [--threads 1 2]

Both have Dreamer V1's RSSM (of CarRacing's latents and actions), 2,500 states, 15 steps, actor and critic of --layers
layers of --units ELUs that see s and h, and a critic of squared errors. A step is imagination, both losses, both
gradients and Adam. "dynamics" is what Simulusion does too; "reinforce" is our default. Simulusion reads its reward and
end from our head, one network for all (as in peers.py). "products" are the multiplications that dynamics cannot do
without, at the rate of a large matrix product.

Lines take turns for --rounds rounds: the median counts.
"""

import argparse
from collections.abc import Callable
from importlib.metadata import version
from types import SimpleNamespace

import numpy as np
import torch
from torch.distributions import Bernoulli, Independent, Normal

from peers import HORIZON, RATE, A, B, H, Head, S, T, U, Z
from turns import in_turns, product_rate
from worldmodels.controller.actor import ActorConfig
from worldmodels.controller.actor_critic import ActorCritic, ActorCriticConfig
from worldmodels.envs import TASKS
from worldmodels.memory.rssm import RSSM, RSSMConfig


def ours(gradient: str, layers: int, units: int) -> Callable[[], object]:
    memory = RSSM(RSSMConfig(hidden_size=H, stochastic_size=S, units=U), Z, A).requires_grad_(False)
    agent = SimpleNamespace(memory=memory, task=TASKS["car_racing"])
    config = ActorCriticConfig(gradient=gradient, batch=B * T, horizon=HORIZON, entropy=0.0, return_scale=False,
                               temperature=1.0)
    model = ActorCritic(config, ActorConfig(sees="h", layers=layers, units=units, critic="value"), agent)
    start, generator = memory.initial(torch.randn(B * T, Z), {"s": torch.randn(B * T, S)}), torch.Generator()
    model.begin(start, np.random.default_rng(0))
    optimizer = torch.optim.Adam(model.parameters(), RATE, fused=True)

    def step():
        loss, _ = model.loss(start, generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def simulusion(layers: int, units: int) -> Callable[[], object]:
    """models/dreamer.py: of train_one_batch all that follows update_world_model."""
    from simulusion.configs.dreamer_config import DreamerConfig
    from simulusion.models.dreamer_v1 import DreamerV1
    from simulusion.vision.dreamer_decoder import ActionDecoder, DenseDecoder
    config = DreamerConfig(deter_size=H, stoch_size=S, obs_embed_size=Z, dense_activation_function="relu",
                           use_disc_model=True, batch_size=B, train_seq_len=T + 1, buffer_size=T + 1)
    dreamer, head = DreamerV1(config, (3, 64, 64), A, "cpu"), Head()
    sizes = {"stoch_size": S, "deter_size": H, "n_layers": layers, "units": units, "activation": "elu"}
    dreamer.actor = ActionDecoder(A, **sizes)
    dreamer.value_model = DenseDecoder(output_shape=(1,), dist="normal", **sizes)
    dreamer.reward_model = lambda features: Independent(Normal(head(features)[..., Z:Z + 1], 1), 1)
    dreamer.discount_model = lambda features: Independent(Bernoulli(logits=head(features)[..., Z + 1:]), 1)
    dreamer.world_model_modules, dreamer.value_modules = [dreamer.rssm, head], [dreamer.value_model]
    dreamer.world_model_params = [*dreamer.rssm.parameters(), *head.parameters()]
    dreamer.actor_opt = torch.optim.Adam(dreamer.actor.parameters(), RATE)
    dreamer.value_opt = torch.optim.Adam(dreamer.value_model.parameters(), RATE)
    dreamer._build_updates()
    start = {"mean": torch.zeros(T, B, S), "std": torch.ones(T, B, S), "stoch": torch.randn(T, B, S)}
    dreamer.posterior = start | {"deter": torch.zeros(T, B, H)}

    def step():
        dreamer.actor_update(dreamer.actor_loss())
        dreamer.value_update(dreamer.value_loss())

    return step


def products(layers: int, units: int) -> float:
    """The operations of a step by dynamics: forward and, through M and the critic's values, to the inputs; through the
    actor and the critic's loss to inputs and weights."""
    of = lambda *sizes: sum(a * b for a, b in zip(sizes, sizes[1:]))
    memory = of(S + A, U) + 2 * of(U, 3 * H) + of(H, U, 2 * S) + of(S + H, U, Z + 2)
    hidden = [S + H, *[units] * layers]
    actor, critic, first = of(*hidden, 2 * A), of(*hidden, 1), of(*hidden[:2])
    return 2 * B * T * HORIZON * (2 * memory + 3 * actor + 2 * critic + 3 * critic - first)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="each line is measured so often; the median counts")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--units", type=int, default=400)
    options = parser.parse_args()
    sizes = options.layers, options.units
    for threads in options.threads:
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        works = {f"Simulusion {version('simulusion')}": simulusion(*sizes)}
        works |= {f"ours, {gradient}": ours(gradient, *sizes) for gradient in ("dynamics", "reinforce")}
        seconds = in_turns(works, options.rounds)
        theirs, floor = next(iter(seconds.values())), products(*sizes) / product_rate()
        print(f"\n{options.layers} layers of {options.units}, {threads} thread(s): products {floor:.2f} s")
        for name, took in seconds.items():
            print(f"  {name:20}{took:7.2f} s, {theirs / took:.2f} × Simulusion's speed, products {floor / took:.0%}",
                  flush=True)


if __name__ == "__main__":
    main()

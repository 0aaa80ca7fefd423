"""A controller from recorded episodes alone, where the search for C may begin: one step of policy improvement.

The discounted return that followed an action a, taken where a controller saw the features f, is explained by least squares as

    Q(f, a) = v·f + u + sum_j a_j (w_j·f + b_j).

w_j·f + b_j is how much more of a_j would have brought, and a linear controller. This is least-squares policy iteration (Lagoudakis
& Parr 2003), with Monte Carlo returns for its fixed point. It improves on whoever played the episodes, and can only where they
chose their actions partly at random.
"""

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from worldmodels.memory.latents import Encoded, Latents, sample
from worldmodels.types import Memory

DISCOUNT = 15 / 16      # of the return, a step
GAIN = 3.0              # the root mean square of what the controller puts out, before it is squashed to actions
RIDGE = 1e-3            # of each regressor's own mean square
TOGETHER = 128          # episodes that M observes at once


@torch.inference_mode()
def improved(memory: Memory, latents: Latents, bias: bool) -> np.ndarray:
    """The controller's parameters [n], as LinearPolicy takes them."""
    covariance = response = 0.0
    by_length = np.argsort(latents.lengths, kind="stable")
    for chosen in tqdm(np.array_split(by_length, -(-len(by_length) // TOGETHER)), desc="improving on the episodes", unit="batch"):
        features, action, returns = seen(memory, [latents.episode(i) for i in chosen], int(chosen[0]))
        ones = features.new_ones(len(features), 1)
        x = torch.cat([features, ones], 1)
        regressors = (torch.cat([ones, action], 1)[:, :, None] * x[:, None]).flatten(1)         # [N, (1 + A)(F + 1)]
        covariance = covariance + (regressors.t() @ regressors).double()
        response = response + (regressors.t() @ returns).double()
    fit = torch.linalg.solve(covariance + RIDGE * covariance.diag().diag(), response).view(-1, x.shape[1])
    slope = fit[1:]                                                                             # [A, F + 1]: w_j, b_j
    count, second = covariance[x.shape[1] - 1, x.shape[1] - 1], covariance[:x.shape[1], :x.shape[1]]    # of steps; sum of x x^T
    slope *= GAIN / ((slope @ second * slope).sum(1, keepdim=True) / count).sqrt().clamp(1e-12)
    return slope.t()[:None if bias else -1].flatten().cpu().numpy()


def seen(memory: Memory, episodes: list[Encoded], seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of all their steps: the features [N, F] a controller would have seen, the action taken [N, A], the discounted return [N] until
    the episode's end, or its cut."""
    device, generator = next(memory.parameters()).device, torch.Generator().manual_seed(seed)
    padded = lambda rows: torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True).to(device)
    z = padded(sample(e.mu, e.log_var, generator) for e in episodes)                            # [B, T+1, Z]
    action, returns = (padded(torch.from_numpy(a) for a in rows) for rows in zip(*((e.action, e.reward) for e in episodes)))
    played = padded(torch.ones(len(e.action)) for e in episodes) > 0                            # [B, T]
    state = memory.initial(z[:, 0])
    features = [state.features]
    for t in range(action.shape[1] - 1):
        state = memory.observe(state, action[:, t], z[:, t + 1])
        features.append(state.features)
    for t in reversed(range(action.shape[1] - 1)):
        returns[:, t] += DISCOUNT * returns[:, t + 1]
    return torch.stack(features, 1)[played], action[played], returns[played]

"""C with a hidden layer of tanh units, the paper's ablation "z and a hidden layer" (Ha & Schmidhuber 2018, sec. 3.3: 40
units)."""

from dataclasses import dataclass

from torch import Tensor

from worldmodels.commandline import Size
from worldmodels.controller.policy import ParameterConfig, ParameterPolicy, visible


@dataclass(frozen=True)
class MLPConfig(ParameterConfig):
    kind: str = "mlp"                   # which of CONTROLLERS
    hidden_size: Size = 40              # tanh units (paper: 40)


class MLPPolicy(ParameterPolicy):
    """A row of parameters: weights [F + 1, H], the last line biases, then weights [H + 1, A] likewise."""

    Config = MLPConfig

    @staticmethod
    def size(config: MLPConfig, agent) -> int:
        seen = visible(config.sees, agent.memory.feature_sizes)
        return (seen.stop - seen.start + 1) * config.hidden_size + (config.hidden_size + 1) * agent.task.action_size

    def prepare(self, rows: Tensor):
        hidden, actions = self.config.hidden_size, self.agent.task.action_size
        first, second = rows.tensor_split([rows.shape[1] - (hidden + 1) * actions], 1)
        self.first, self.second = first.unflatten(1, (-1, hidden)), second.unflatten(1, (-1, actions))

    def output(self, x: Tensor) -> Tensor:
        # tanh(W_2 tanh(W_1 x + b_1) + b_2), the outer one being the task's
        hidden = ((x[:, None] @ self.first[:, :-1]).squeeze(1) + self.first[:, -1]).tanh()      # [B, H]
        return (hidden[:, None] @ self.second[:, :-1]).squeeze(1) + self.second[:, -1]

"""M: how the world moves. A new kind is one file here and one line in MEMORIES."""

from worldmodels.memory.ensemble import Ensemble
from worldmodels.memory.gru import GRU
from worldmodels.memory.heads import MemoryConfig
from worldmodels.memory.mdn_rnn import MDNRNN, MDNRNNConfig
from worldmodels.memory.rssm import RSSM
from worldmodels.types import Memory

MEMORIES: dict[str, type[Memory]] = {kind.Config.kind: kind for kind in (
    MDNRNN,
    GRU,
    RSSM,
    Ensemble,
)}

__all__ = ["Ensemble", "GRU", "MDNRNN", "MDNRNNConfig", "MEMORIES", "MemoryConfig", "RSSM"]

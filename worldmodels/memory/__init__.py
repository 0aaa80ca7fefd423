"""M: how the world moves. A new kind of memory is one file here and one line in MEMORIES."""

from worldmodels.memory.mdn_rnn import DEATH, MDNRNN, MemoryConfig

MEMORIES = {"mdn_rnn": MDNRNN}

__all__ = ["DEATH", "MDNRNN", "MEMORIES", "MemoryConfig"]

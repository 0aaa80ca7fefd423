"""Where jobs run: worker processes on this machine."""

from worldmodels.executors.local import LocalExecutor

__all__ = ["LocalExecutor"]

"""Where jobs run: worker processes on this machine."""

from worldmodels.executors.local import LocalExecutor, ctrl_c_waits

__all__ = ["LocalExecutor", "ctrl_c_waits"]

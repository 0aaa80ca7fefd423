"""What ends a command. It imports nothing, so that what lists runs or prints help starts without torch."""


class UserError(Exception):
    """A mistake that the user can mend; the command line prints it as one line and exits with code 2."""

    def __str__(self) -> str:
        """One line without control characters, whatever a damaged file put into it."""
        return "".join(c if c.isprintable() else " " if c.isspace() else repr(c)[1:-1] for c in super().__str__())


class StopTraining(Exception):
    """Ends a command early and leaves a run that the same command resumes; a writer raises it (metrics.py)."""


class WorkerDied(RuntimeError):
    """A job killed or outlasted its worker on every attempt, or the executor was closed while it ran."""

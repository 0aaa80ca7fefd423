"""Jobs that the tests of every executor run."""

import os
import signal
import time

LONG = 100      # seconds, after which a job is taken to hang


class Square:
    """A job: its number squared, drawn in a way that a wrong order would show."""

    def __init__(self, number):
        self.number = number

    def __call__(self):
        return self.number**2


class Once:
    """A job that misbehaves until its marker file exists, and returns the number of its worker process after that."""

    def __init__(self, marker, misbehave):
        self.marker, self.misbehave = marker, misbehave

    def __call__(self):
        if not self.marker.exists():
            self.marker.touch()
            self.misbehave()
        return os.getpid()


class WithDeadline:
    """A job that may take `deadline` seconds."""

    def __init__(self, job, deadline):
        self.job, self.deadline = job, deadline

    def __call__(self):
        return self.job()


class Unreadable:
    """What can be sent and not received; reading it raises an `error` of this kind."""

    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        return fail, (self.error("unreadable"),)


class TwoArguments(Exception):
    """An exception that cannot be unpickled: its arguments are not those of its constructor."""

    def __init__(self, name, reason):
        super().__init__(f"{name}: {reason}")


class Unsendable(Exception):
    """An exception that cannot be pickled."""

    def __reduce__(self):
        raise TypeError("not to be sent")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def hang():
    time.sleep(1000)


def fail(error):
    raise error


def wait_for(path):
    """A job, or a test's wait for one: until the file exists."""
    while not path.exists():
        time.sleep(0.01)

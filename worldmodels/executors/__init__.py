"""Where jobs run: one executor a kind, all under one contract.

A job is a callable without arguments. Its result depends on nothing but itself, so it may run anywhere and more than
once. It may have an attribute `deadline`, the seconds it may take. Without one, the executor's own deadline holds.

    EXECUTORS[kind](workers)        a context manager; a UserError where so many workers cannot be had
    size                            jobs that run at the same time
    submit(job) -> Future           a RuntimeError once the executor is closed
    run(jobs, progress, weight)     the results, in the order of the jobs. The calling thread advances `progress` by
                                    `weight(result)` as each job ends. The first exception ends the run: the run's
                                    other jobs are cancelled where they have not begun, other callers' jobs go on
    close()                         ends the workers. Waiting jobs are cancelled, running ones end in WorkerDied

Every future ends, whatever dies. A job that takes its worker with it or is not done by its deadline is run again. After
ATTEMPTS times it ends in WorkerDied. What cannot be pickled fails with the pickler's error.
"""

from worldmodels.executors.local import ATTEMPTS, LocalExecutor, WorkerDied, ctrl_c_waits
from worldmodels.executors.machine import check_workers, default_workers

EXECUTORS = {"local": LocalExecutor}

__all__ = ["ATTEMPTS", "EXECUTORS", "LocalExecutor", "WorkerDied", "check_workers", "ctrl_c_waits",
           "default_workers"]

"""Where the parts of a grid run: one after the other, on processes, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, TypeVar

from labelleak.errors import BadInput, from_extra, unknown_name
from labelleak.records.options import Option, Options

Task = TypeVar("Task")
Answer = TypeVar("Answer")
KINDS = ("serial", "joblib", "ray")
_DIED = (
    "a worker process has died, as happens where memory runs out; what was finished is kept: "
    "give the command again, perhaps with fewer `workers`"
)
# Named, so that a class that only has other defaults declares them once.
ExecutorKind = Annotated[str, Option("serial, joblib (processes) or ray.", flag="executor")]
Workers = Annotated[int | None, Option("Processes at a time; all cores if left out.", min=1)]
Address = Annotated[str | None, Option("Address of a running Ray cluster; auto finds a local one.")]


@dataclass(frozen=True, kw_only=True)
class Executor(Options):
    """Where tasks run. Answers come in the order of the tasks, whatever finishes first.

    Without an address Ray starts a cluster of its own on this machine.

    Raises:
        BadInput: for an unknown kind, or an address without Ray.
    """

    kind: ExecutorKind = "serial"
    workers: Workers = None
    address: Address = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in KINDS:
            raise unknown_name("executor", self.kind, KINDS)
        if self.address and self.kind != "ray":
            raise BadInput("`address` is that of a Ray cluster; add `kind` ray")

    def map(self, function: Callable[[Task], Answer], tasks: Sequence[Task]) -> Iterator[Answer]:
        """Apply a function to every task.

        Raises:
            BadInput: if Ray is not installed or its cluster not there, or if a worker dies.

        >>> list(Executor().map(abs, [-1, 2]))
        [1, 2]
        """
        if self.kind == "serial":
            return map(function, tasks)
        alone = partial(_on_one_thread, function)
        return self._joblib(alone, tasks) if self.kind == "joblib" else self._ray(alone, tasks)

    def _joblib(
        self, function: Callable[[Task], Answer], tasks: Sequence[Task]
    ) -> Iterator[Answer]:
        from concurrent.futures.process import BrokenProcessPool

        from joblib import Parallel, delayed, parallel_config

        # Each worker runs its models on one thread: more of them would fight for the cores.
        try:
            with parallel_config("loky", n_jobs=self.workers or -1, inner_max_num_threads=1):
                yield from Parallel(return_as="generator")(delayed(function)(one) for one in tasks)
        except BrokenProcessPool as error:
            raise BadInput(_DIED) from error

    def _ray(self, function: Callable[[Task], Answer], tasks: Sequence[Task]) -> Iterator[Answer]:
        from joblib import Parallel, delayed, parallel_config

        workers = _join_ray(self.address, self.workers)
        from ray.exceptions import RayError, RayTaskError

        try:
            with parallel_config("ray", n_jobs=workers):
                # Ray's backend gives answers by the batch only, so batches are kept small.
                for first in range(0, len(tasks), workers):
                    some = tasks[first : first + workers]
                    yield from Parallel()(delayed(function)(task) for task in some)
        except RayTaskError:  # what a task raised itself
            raise
        except RayError as error:
            raise BadInput(_DIED) from error


def _on_one_thread(function: Callable[[Task], Answer], task: Task) -> Answer:
    """Do a task in a worker, one of several on the same cores."""
    from labelleak.core.seeding import use_threads

    use_threads(1)
    return function(task)


def _join_ray(address: str | None, workers: int | None) -> int:
    """Join a Ray cluster, or start one on this machine, and say how many tasks it takes."""
    import os

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing phones home
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with from_extra("Ray is not installed; install labelleak[ray], or use `kind` joblib"):
        import ray
        from ray.util.joblib import register_ray
    if not ray.is_initialized():
        options: dict[str, Any] = {"address": address} if address else {"num_cpus": workers}
        try:
            ray.init(
                log_to_driver=False,
                include_dashboard=None if address else False,
                runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}},
                **options,
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise BadInput(f"cannot join the Ray cluster at {address}: {reason}") from error
    register_ray()  # type: ignore[no-untyped-call]
    held = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return workers or max(1, int(held.get("CPU", 1)))


__all__ = ["Executor", "ExecutorKind"]

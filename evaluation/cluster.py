"""Ray: rows through actors that load the models once, on this machine or on many.

    with connected(args.address):
        rows = ray.data.from_items(...)
        rows = through_actors(rows, Worker, (load, tries()), gpu=False, batch_size=8)

Ray Data hands out the rows, holds back what would fill memory, and gives the rows of a worker or a
node that died to another one. Its progress bars are on a terminal only. What kills its worker again
and again is counted here (`attempt`), so that it does not kill for ever. Ray is imported inside
functions alone: without `--engine ray` nothing of it is.
"""

import argparse
import contextlib
import logging
import os
import sys
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.data import Dataset

NEEDS = "--engine ray needs the package ray: pip install 'ray[data]'"
MOST_TRIES = 3  # of what kills its worker
# Ray's own settings, where the environment does not say otherwise.
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # it would tell its makers
    "RAY_worker_niceness": "0",  # as forked workers have; on a busy machine 15 is for ever
}


def add_engine_flags(flags: argparse.ArgumentParser) -> None:
    """Add the flags of what spreads the work."""
    flags.add_argument(
        "--engine",
        default="loop",
        choices=("loop", "ray"),
        help="what spreads the images: loop, over the processes of this machine, or ray, over "
        "those of a Ray cluster (needs requirements-cluster.txt) (default: loop)",
    )
    flags.add_argument(
        "--address",
        help="address of the Ray cluster, or auto on one of its machines (default: a Ray of this "
        "machine, which ends with the run)",
    )


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Be connected to the Ray cluster at an address, "auto" for that of this machine, for the
    block; None: to a Ray of this machine alone that ends with it.

    Raises ValueError without the package, OSError for what Ray cannot do.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError:
        raise ValueError(NEEDS) from None
    try:
        ray.init(logging_level=logging.ERROR, log_to_driver=False, **_place(address))
    except (ConnectionError, ray.exceptions.RayError) as error:
        raise OSError(f"Ray: {_line(error)}") from None
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = sys.stderr.isatty()
    try:
        yield
    except ray.exceptions.RayError as error:
        raise OSError(f"Ray: {_line(error)}") from None
    finally:
        ray.shutdown()


def _place(address: str | None) -> dict[str, Any]:
    """Return the arguments of ray.init; of this machine, Ray gets a CPU for each thread of PyTorch,
    as there are forked workers.
    """
    import torch

    if address:
        return {"address": address}
    return {"address": "local", "num_cpus": torch.get_num_threads(), "include_dashboard": False}


def _line(error: Exception) -> str:
    """Return what went wrong, without the traceback of another process."""
    text = str(getattr(error, "cause", None) or error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines or [type(error).__name__])[-1][:1000]


def has_gpus(device: str | None) -> bool:
    """Return whether actors get a GPU each: if the cluster has one and the CPU is not asked for."""
    import ray

    return device != "cpu" and ray.cluster_resources().get("GPU", 0) >= 1


def through_actors(
    rows: "Dataset", worker: type, arguments: tuple, gpu: bool, batch_size: int
) -> "Dataset":
    """Return what instances of `worker` make of rows, in batches of a block each: one for each CPU
    or GPU, also of nodes that come later. arguments: of the instances. A block is a task: what a
    killed worker does again. Where calling them is a coroutine, they have several batches at a
    time.
    """
    import ray
    from ray.data import ActorPoolStrategy

    present = int(ray.cluster_resources().get("GPU" if gpu else "CPU", 1))
    return rows.map_batches(
        worker,
        fn_constructor_args=arguments,
        batch_size=batch_size,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(min_size=1, initial_size=max(1, present)),
        # Actors take all: other operators must ask for no CPU, or they would wait for ever.
        num_cpus=0 if gpu else 1,
        num_gpus=1 if gpu else 0,
    )


def processes_here() -> int:
    """Return how many actors share this machine's cores if each has a GPU. For an actor."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    for node in ray.nodes():
        if node["NodeID"] == here:
            return max(1, int(node["Resources"].get("GPU", 1)))
    return 1


class Tries:
    """Counts how often what is not ended was begun."""

    def __init__(self) -> None:
        self.begun: Counter = Counter()

    def begin(self, key: object) -> int:
        """Return how often it was begun before."""
        self.begun[key] += 1
        return self.begun[key] - 1

    def end(self, key: object) -> None:
        """Forget it."""
        self.begun.pop(key, None)


def tries() -> Any:
    """Return `Tries` as an actor beside the driver, which outlives the workers."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}
    return ray.remote(Tries).options(scheduling_strategy=here, **options).remote()


@contextlib.contextmanager
def attempt(counter: Any, key: object) -> Iterator[int]:
    """Give how often the block was begun before and killed. counter: from `tries`."""
    import ray

    before = ray.get(counter.begin.remote(key))
    yield before
    counter.end.remote(key)


def killed() -> RuntimeError:
    """Return the error of what killed its worker too often."""
    return RuntimeError(f"its worker was killed {MOST_TRIES} times: out of memory?")

"""Runs on Ray give the results of the loop, also when nodes die or come on the way.

python -m pytest -m slow tests/test_cluster_nodes.py
"""

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers.ray_runs import images_in, looped_results, results, shards_of

pytest.importorskip("ray", reason="needs requirements-cluster.txt")
pytest.importorskip("pyarrow", reason="needs requirements-cluster.txt")
pytest.importorskip("webdataset", reason="needs requirements-shards.txt")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return shards_of(images_in(folder / "photos"), folder / "shards", 60)


@pytest.fixture(scope="module")
def looped(shards, tmp_path_factory):
    """The results of the loop in one process."""
    return looped_results(shards, tmp_path_factory.mktemp("loop"))


def test_of_three_nodes_one_is_killed_on_the_way(ray_nodes, shards, looped, tmp_path):
    with one_node(tmp_path, pause_s=0.5) as machines:
        victim, _ = (machines.add_node(num_cpus=1) for _ in range(2))

        def kill():
            machines.remove_node(victim, allow_graceful=False)

        assert run(machines, shards, tmp_path, when=3, change=kill) == looped
    assert len(set(nodes_of_batches(tmp_path))) == 3


def test_a_node_that_comes_on_the_way_gets_work(ray_nodes, shards, looped, tmp_path):
    with one_node(tmp_path, pause_s=2) as machines:  # Ray Data uses a new node after some 20 s

        def add():
            machines.add_node(num_cpus=1)

        assert run(machines, shards, tmp_path, when=1, change=add) == looped
    assert len(set(nodes_of_batches(tmp_path))) == 2


@contextlib.contextmanager
def one_node(folder, pause_s):
    """Give a cluster of one node, for stubs that take a while for a batch and say where."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STUB_PAUSE_S", str(pause_s))
        patch.setenv("STUB_SEEN", str(folder / "at"))
        machines = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        try:
            yield machines
        finally:
            machines.shutdown()


def run(machines, shards, folder, when, change):
    """Return the results of a run in which something changes when so many nodes have worked."""
    from helpers import stub_cluster

    more = ("--batch_size", "2", "--address", machines.address)
    with ThreadPoolExecutor(1) as pool:  # nodes are added in the main thread only
        status = pool.submit(stub_cluster.run, shards, folder / "ray", *more)
        end = time.monotonic() + 90
        while time.monotonic() < end and len(set(nodes_of_batches(folder))) < when:
            time.sleep(0.1)
        change()
        assert status.result() == 1
    return results(folder / "ray")


def nodes_of_batches(folder):
    """Return the node of each batch that was begun."""
    log = folder / "at"
    return log.read_text().split() if log.exists() else []

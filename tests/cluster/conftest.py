"""One real control plane for the session, where it was asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.cluster.control_plane import Cluster, run_cluster
from tests.cluster.releases import release_as_written, remove, roll_out

ASKED = "RECOURSE_TEST_CLUSTER"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("cluster"):
            if not os.environ.get(ASKED):
                item.add_marker(
                    pytest.mark.skip(reason="a Kubernetes control plane takes long to build: make test-k8s")
                )
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A control plane with three nodes in two zones and the operators' definitions."""
    with run_cluster() as running:
        yield running


@pytest.fixture
def production(cluster: Cluster) -> Iterator[None]:
    """The overlay `production`, released into an empty cluster and removed afterwards."""
    release_as_written(cluster, "production")
    roll_out(cluster)
    yield
    remove(cluster)

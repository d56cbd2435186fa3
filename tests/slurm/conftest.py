"""A Slurm cluster of four virtual nodes for the session, and site files as a user would edit them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cluster as slurm_cluster
import pytest
from cluster import Cluster, Site, site_file


@pytest.fixture(scope="session")
def running_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    missing = slurm_cluster.missing_programs()
    if missing:
        pytest.skip(f"no Slurm on this machine ({', '.join(missing)} not found)")
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.environment.items():
            patch.setenv(name, value)
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


@pytest.fixture
def cluster(running_cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, idle; each test must leave it without jobs of its own accord."""
    running_cluster.wait_until_idle(60.0)
    yield running_cluster
    try:
        assert running_cluster.drained(60.0), running_cluster.jobs()
    finally:
        running_cluster.run("scancel", "--user", str(os.getuid()))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Write a copy of a site file with other capitals; returns its path."""

    return partial(site_file, tmp_path)

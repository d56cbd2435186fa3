"""What the adapter takes of Parsl without a promise: a version that lacks some of it fails here, by name."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest
from parsl.dataflow.dflow import DataFlowKernel
from parsl.executors import HighThroughputExecutor
from parsl.executors.high_throughput.errors import VersionMismatch
from parsl.jobs.states import JobState, JobStatus

from workflows.driver import parsl_adapter
from workflows.driver.parsl_adapter import Pool
from workflows.driver.sites import load_site

EXECUTOR = {
    "label", "provider", "outstanding", "scale_in", "drain_period", "block_error_handler", "status_facade",
    "job_ids_to_block", "bad_state_is_set", "executor_exception", "set_bad_state_and_fail_all", "interchange_proc",
    "outgoing_q.zmq_socket.sndtimeo", "outgoing_q.zmq_socket.linger", "incoming_q.close",
}  # fmt: skip
"""Of a started HighThroughputExecutor."""


@pytest.fixture(scope="module")
def executor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HighThroughputExecutor]:
    """An executor that runs, without any block."""
    config = load_site("local", tmp_path_factory.mktemp("run"))
    found = config.executors[0]
    assert isinstance(found, HighThroughputExecutor) and found.provider is not None
    found.provider.init_blocks = found.provider.min_blocks = 0
    pool = Pool(config, found, {}, None)
    yield found
    pool.clean_up()


@pytest.mark.parametrize("path", sorted(EXECUTOR))
def test_the_installed_executor_has(path: str, executor: HighThroughputExecutor) -> None:
    found: object = executor
    for name in path.split("."):
        assert hasattr(found, name), f"{type(found).__name__}.{name} is gone"
        found = getattr(found, name)


def test_the_list_is_complete() -> None:
    """Each attribute of an executor that the adapter's source names is in the list, and no other."""
    tree = ast.parse(Path(parsl_adapter.__file__).read_text())
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    inner = {id(node.value) for node in attributes}
    paths = {ast.unparse(node).removeprefix("self.") for node in attributes if id(node) not in inner}
    named = {path.removeprefix("executor.") for path in paths if path.startswith("executor.")}
    beyond = {"kill", "wait", "poll", "cancel", "values", "items"}  # methods of what the attributes are
    assert {path.rpartition(".")[0] if path.rpartition(".")[2] in beyond else path for path in named} == EXECUTOR


def test_blocks_are_ended_by_number_and_idle_time(executor: HighThroughputExecutor) -> None:
    assert executor.scale_in(0, max_idletime=0.0) == []  # the adapter's: Parsl's own would end every idle block
    assert list(inspect.signature(HighThroughputExecutor.scale_in).parameters) == ["self", "blocks", "max_idletime"]


def test_what_blocks_versions_and_kernels_tell() -> None:
    status = JobStatus(JobState.FAILED, message="no such partition")
    assert status.terminal and status.message == "no such partition" and not status.stderr_summary
    mismatch = VersionMismatch("py.v=3.12 parsl.v=1", "py.v=3.13 parsl.v=1")
    assert (mismatch.interchange_version, mismatch.manager_version) == ("py.v=3.12 parsl.v=1", "py.v=3.13 parsl.v=1")
    assert callable(DataFlowKernel.cleanup)

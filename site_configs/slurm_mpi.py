"""A Slurm cluster with labels on several nodes and MPI fits. Copy this file, edit the capitals, give its path:

    dynft site check my_cluster.py
    dynft train campaign.toml --site my_cluster.py

As slurm.py, which says more; but a label has whole nodes, and its own command starts its ranks on all of them. What
starts ranks is told to the workers as $DYNFT_MPI_LAUNCHER: the words before a program. Fits have a pool of their own.
"""

from __future__ import annotations

from typing import Any

from parsl.addresses import address_by_hostname
from parsl.config import Config
from parsl.executors import HighThroughputExecutor

from site_configs.blocks import SlurmBlocks, environment, parsl_folder, worker_pool

ACCOUNT: str | None = None  # None: your default account
QOS: str | None = None
WORKER_INIT = ""  # shell lines before all workers
SCHEDULER_OPTIONS = ""  # further lines of all job scripts
ADDRESS: str | None = None  # of this machine as the nodes see it; None: by its host name
POLL_S = 15
MAX_IDLE_S = 600.0  # an idle block goes back after this
HEARTBEAT_S, PATIENCE_S = 15, 120

WALK_PARTITION: str | None = None  # None: Slurm's default partition
WALK_WALLTIME = "1-00:00:00"
WALK_TASKS = 32  # batches of walkers side by side, one core each
MAX_WALK_BLOCKS = 2
WALK: dict[str, Any] = {}  # of this pool alone: {"account": "ab1", "qos": "short", "constraint": "milan"}
WALK_INIT = ""

LABEL_PARTITION: str | None = None
LABEL_WALLTIME = "3-00:00:00"  # longer than twice reference.timeout_s: a label may be computed twice
LABEL_NODES, LABEL_RANKS_PER_NODE, LABEL_THREADS = 2, 32, 2  # of one label
LABEL_LAUNCHER = (  # or f"mpiexec -n {ranks} -ppn {ranks per node}"
    f"srun --nodes={LABEL_NODES} --ntasks={LABEL_NODES * LABEL_RANKS_PER_NODE} "
    f"--ntasks-per-node={LABEL_RANKS_PER_NODE} --cpus-per-task={LABEL_THREADS}"
)
LABEL_INIT = 'module load vasp\nexport ASE_VASP_COMMAND="$DYNFT_MPI_LAUNCHER vasp_std"'
MAX_LABEL_BLOCKS = 8  # labels side by side
LABEL: dict[str, Any] = {}

FIT_PARTITION: str | None = None
FIT_WALLTIME = "0-04:00:00"  # longer than limits.fit_minutes
FIT_RANKS, FIT_THREADS = 4, 8  # on one node; more than one rank needs mpi4py and the MPI that it loads
FIT_LAUNCHER = f"srun --ntasks={FIT_RANKS} --cpus-per-task={FIT_THREADS}" if FIT_RANKS > 1 else ""
FIT: dict[str, Any] = {}
FIT_INIT = ""


def config(run_dir: str) -> Config:
    """Parsl's configuration for a campaign in `run_dir` (absolute, on a shared file system)."""

    def pool(
        label: str, most: int, tasks: int, cores: int, nodes: int, init: str, **options: Any
    ) -> HighThroughputExecutor:
        blocks = SlurmBlocks(
            run_dir, POLL_S, scheduler_options=SCHEDULER_OPTIONS, cores_per_node=cores, nodes_per_block=nodes,
            exclusive=nodes > 1, init_blocks=0, max_blocks=most, worker_init=init, **options,
        )  # fmt: skip
        return worker_pool(label, blocks, tasks, ADDRESS or address_by_hostname(), HEARTBEAT_S, PATIENCE_S)

    def init(threads: int, launcher: str, lines: str) -> str:
        return f'{environment(threads)}\nexport DYNFT_MPI_LAUNCHER="{launcher}"\n{WORKER_INIT}\n{lines}'

    common = {"account": ACCOUNT, "qos": QOS}
    walk = {**common, "partition": WALK_PARTITION, "walltime": WALK_WALLTIME, **WALK}
    label = {**common, "partition": LABEL_PARTITION, "walltime": LABEL_WALLTIME, **LABEL}
    fit = {**common, "partition": FIT_PARTITION, "walltime": FIT_WALLTIME, **FIT}
    cores, fit_cores = LABEL_RANKS_PER_NODE * LABEL_THREADS, FIT_RANKS * FIT_THREADS
    label_init, fit_init = init(LABEL_THREADS, LABEL_LAUNCHER, LABEL_INIT), init(FIT_THREADS, FIT_LAUNCHER, FIT_INIT)
    return Config(
        executors=[
            pool("walkers", MAX_WALK_BLOCKS, WALK_TASKS, WALK_TASKS, 1, init(1, "", WALK_INIT), **walk),
            pool("ab_initio", MAX_LABEL_BLOCKS, 1, cores, LABEL_NODES, label_init, **label),
            pool("fitter", 1, 1, fit_cores, 1, fit_init, **fit),
        ],
        strategy="htex_auto_scale",  # blocks come with the tasks and go when idle
        max_idletime=MAX_IDLE_S,
        strategy_period=max(POLL_S / 3, 0.3),
        usage_tracking=0,
        run_dir=parsl_folder(run_dir),
    )

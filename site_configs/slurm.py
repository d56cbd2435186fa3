"""A Slurm cluster: walkers in one partition, labels in another. Copy this file, edit the capitals, and give its path:

    dynft site check my_cluster.py
    dynft train campaign.toml --site my_cluster.py

The driver runs where you start it (a login node, in tmux) and needs almost nothing. Walkers and labels run in blocks:
Slurm jobs that serve task after task. A block takes no task that might not end within its walltime, idle blocks go
back, and the campaign goes on in new ones for as long as it takes. The run folder, the Python environment and the
calculator must be visible from the compute nodes.
"""

from __future__ import annotations

from parsl.addresses import address_by_hostname
from parsl.config import Config
from parsl.executors import HighThroughputExecutor

from site_configs.blocks import SlurmBlocks, environment, parsl_folder, worker_pool

ACCOUNT: str | None = None  # None: your default account
QOS: str | None = None
WORKER_INIT = ""  # shell lines before the workers: module load vasp; export ASE_VASP_COMMAND="mpirun vasp_std"
ADDRESS: str | None = None  # of this machine as the nodes see it: address_by_interface("ib0"); None: by host name
SCHEDULER_OPTIONS = ""  # further lines of the job scripts: "#SBATCH --constraint=milan"
POLL_S = 15  # how often Slurm is asked about our jobs
MAX_IDLE_S = 600.0  # an idle block goes back after this
HEARTBEAT_S, PATIENCE_S = 15, 120  # a block without a sign of its driver for this long ends itself

WALK_PARTITION: str | None = None  # None: Slurm's default partition
WALK_WALLTIME = "1-00:00:00"  # of one block: days-hours:minutes:seconds
WALK_TASKS = 4  # batches of walkers (dynamics.walkers_per_task) that a block walks side by side
WALK_THREADS = 1  # cores of each
MAX_WALK_BLOCKS = 2

LABEL_PARTITION: str | None = None
LABEL_WALLTIME = "2-00:00:00"  # longer than twice reference.timeout_s: a label may be computed twice
LABEL_CORES = 4  # cores of one label, which has its block for itself; its own command starts the ranks
LABEL_THREADS = 1  # OMP_NUM_THREADS of that command
MAX_LABEL_BLOCKS = 4  # labels that run side by side


def config(run_dir: str) -> Config:
    """Parsl's configuration for a campaign in `run_dir` (absolute, on a shared file system)."""

    def pool(
        label: str, partition: str | None, walltime: str, cores: int, tasks: int, threads: int, most: int
    ) -> HighThroughputExecutor:
        blocks = SlurmBlocks(
            run_dir,
            POLL_S,
            walltime,
            partition=partition,
            account=ACCOUNT,
            qos=QOS,
            scheduler_options=SCHEDULER_OPTIONS,
            cores_per_node=cores,
            exclusive=False,
            init_blocks=0,  # a block when there is a task for it
            max_blocks=most,
            worker_init=f"{environment(threads)}\n{WORKER_INIT}",
        )
        return worker_pool(label, blocks, tasks, ADDRESS or address_by_hostname(), HEARTBEAT_S, PATIENCE_S)

    walk_cores = WALK_TASKS * WALK_THREADS
    walkers = pool("walkers", WALK_PARTITION, WALK_WALLTIME, walk_cores, WALK_TASKS, WALK_THREADS, MAX_WALK_BLOCKS)
    labels = pool("ab_initio", LABEL_PARTITION, LABEL_WALLTIME, LABEL_CORES, 1, LABEL_THREADS, MAX_LABEL_BLOCKS)
    return Config(
        executors=[walkers, labels],
        strategy="htex_auto_scale",  # blocks come with the tasks and go when idle
        max_idletime=MAX_IDLE_S,
        strategy_period=max(POLL_S / 3, 0.3),
        usage_tracking=0,
        run_dir=parsl_folder(run_dir),
    )

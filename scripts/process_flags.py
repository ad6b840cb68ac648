"""Define the flags of scripts that several processes can run together.

flags.adopt_module_key_flags(process_flags)
process_flags.connect()     # first of all, before JAX uses a device
"""

import logging

from absl import app, flags

from scripts import errors
from seeflower_jax.sharding import processes

_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Work together with other processes; see docs/devices.md."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0; clusters such as SLURM set it."
)
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "Number of processes; clusters set it.", 1
)
_PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "Number of this process, from 0; clusters set it.", 0
)


def connect() -> None:
    """Connect with the other processes, if the command line has --distributed.

    Raises:
      app.UsageError: if flags are missing or do not fit each other.
    """
    place = (_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    if not _DISTRIBUTED.value:
        if place != (None, None, None):
            raise app.UsageError(
                "--coordinator, --num_processes and --process_id go with --distributed"
            )
        return
    try:
        processes.initialize(*place)
    except ValueError as error:
        raise app.UsageError(
            f"--distributed: {errors.describe(error)} Start the processes with SLURM, "
            "GKE or Open MPI, or give --coordinator=HOST:PORT, --num_processes and "
            "--process_id"
        ) from error
    if not processes.is_main():
        logging.getLogger().setLevel(logging.WARNING)

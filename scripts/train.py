r"""Train a network in stages and evaluate it.

    python -m scripts.train --config=configs/inception.py
    python -m scripts.train --config=configs/inception.py --workdir=runs/seed1 \
        --config.seed=1 --config.data.dir=DIR --config.init.weights=FILE

Ctrl-C, or SIGTERM, ends the run after the step under way and saves its state. A second
Ctrl-C ends it at once. The same command continues an interrupted run.

--notest does not use the test split. Use it for runs that you compare on validation.
The result is printed on stdout, progress on stderr. The run directory gets report.html,
a page about the whole run. --profile=10 writes a trace of 10 steps of each stage to
profile/ in the run directory, for XProf and https://ui.perfetto.dev.
"""

import logging
import pathlib

from absl import app, flags

from scripts import config_flag, console, process_flags
from seeflower_jax import records
from seeflower_jax.evaluation.metrics import format_table
from seeflower_jax.experiment import train
from seeflower_jax.figures import curves
from seeflower_jax.report import collect
from seeflower_jax.sharding import processes
from seeflower_jax.studies import quickstart

flags.adopt_module_key_flags(config_flag)
flags.adopt_module_key_flags(process_flags)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "The run directory; the default is runs/<config>_<recipe>_seed<seed>.",
)
_CHECKPOINT_SECONDS = flags.DEFINE_float(
    "checkpoint_seconds", 300.0, "Seconds between checkpoints to continue from."
)
_TEST = flags.DEFINE_bool("test", True, "Whether to evaluate the test split too.")
_PROFILE = flags.DEFINE_integer(
    "profile", 0, "Steps of each stage to trace in the run directory's profile/.", 0
)


def main(_) -> None:
    process_flags.connect()
    config = config_flag.CONFIG.value
    if "quickstart" in config and not _TEST.value:
        raise app.UsageError(
            "the quick start compares accuracies on the test split; leave out --notest"
        )
    if "quickstart" in config and processes.count() > 1:
        raise app.UsageError("the quick start runs in one process, not --distributed")
    if "quickstart" in config:
        quickstart.check(config)
    workdir = _WORKDIR.value or f"runs/{config_flag.name()}_seed{config.seed}"
    folder = pathlib.Path(workdir).expanduser()
    command = records.typed_command()
    with records.lock(folder):
        result = train.train(
            config,
            workdir,
            command,
            _CHECKPOINT_SECONDS.value,
            _TEST.value,
            _PROFILE.value,
        )
        lines = [workdir, format_table(result)]
        if not processes.is_main():
            return
        if "quickstart" in config:
            result["quickstart"] = quickstart.show(config, workdir, command)
            lines.append(quickstart.sentences(result["quickstart"]))
        console.show(result, "\n".join(lines))
        if log := records.read_logs(folder):
            curves.write_learning_curves(folder / "learning_curves.png", log)
        else:
            logging.warning("%s has no epochs", folder / records.LOG_FILE)
        with processes.alone():
            if not collect.is_current(folder):
                collect.write(folder)


if __name__ == "__main__":
    console.run(main)

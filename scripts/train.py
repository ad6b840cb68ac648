r"""Trains a network in stages and evaluates it.

    python -m scripts.train --config=configs/inception.py
    python -m scripts.train --config=configs/inception.py --workdir=runs/seed1 \
        --config.seed=1 --config.data.dir=DIR --config.init.weights=FILE

The same command goes on with a run that was interrupted. --notest leaves the test split
alone, for runs that are compared on validation to choose between them. The result is
printed on stdout, progress on stderr. report.html in the run directory shows it all.
"""

import pathlib

from absl import app, flags
from ml_collections import config_flags

from scripts import config_flag, console
from seeflower_jax import experiment, quickstart, records, reporting
from seeflower_jax.report import curves, results

flags.adopt_module_key_flags(config_flag)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "The run directory; runs/<name of the config file>_seed<seed> by default.",
)
_CHECKPOINT_SECONDS = flags.DEFINE_float(
    "checkpoint_seconds", 300.0, "How often the state is saved, to go on from."
)
_TEST = flags.DEFINE_bool("test", True, "Whether the test split is looked at too.")


def main(_) -> None:
    config = config_flag.CONFIG.value
    if "quickstart" in config and not _TEST.value:
        raise app.UsageError("the quick start compares on test; leave --notest out")
    name = pathlib.Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
    workdir = _WORKDIR.value or f"runs/{name}_seed{config.seed}"
    command = records.typed_command()
    result = experiment.train(
        config, workdir, command, _CHECKPOINT_SECONDS.value, _TEST.value
    )
    lines = [workdir, results.accuracies(result)]
    if "quickstart" in config:
        result["quickstart"] = quickstart.show(config, workdir, command)
        lines.append(quickstart.sentences(result["quickstart"]))
    console.show(result, "\n".join(lines))
    curves.learning_curves(workdir)
    if not reporting.is_current(workdir):
        reporting.write(workdir)


if __name__ == "__main__":
    console.run(main)

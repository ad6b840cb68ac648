"""Makes the rows of the ablation that are missing in results/ablation.json.

    python -m scripts.ablation --out=runs --dry_run
    python -m scripts.ablation --out=runs --only='vgg16_without*'

A row is a best recipe with one thing changed, trained if it has to be, and its figures
on validation. The plan is shown first: what is recorded, what is missing, and the
commands, which are then run one after the other. Interrupted training is gone on with.
`scripts.reproduce --report` brings the rows into RESULTS.md.
"""

import subprocess
import sys

from absl import flags

from scripts import console, run_flags
from seeflower_jax import ablation, records

_OUT = flags.DEFINE_string(
    "out", None, "The folder of the run directories.", required=True
)
_ONLY = flags.DEFINE_list("only", [], "Rows, or patterns of them with *.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Only shows the plan.")
_RESULTS = flags.DEFINE_string("results", "results", "Folder of recorded results.")
flags.adopt_module_key_flags(run_flags)


def _make(commands) -> bool:
    """Runs scripts up to the first that fails; whether none did."""
    for script, arguments in commands:
        command = [sys.executable, "-m", f"scripts.{script}", *arguments]
        if subprocess.run(command).returncode:
            return False
    return True


def main(_) -> None:
    there = ablation.recorded(_RESULTS.value)
    rows, missing = [], {}
    for change in ablation.select(_ONLY.value):
        commands = change.commands(_OUT.value, **run_flags.options())
        commands[-1][1].append(f"--results={_RESULTS.value}")
        state = "recorded"
        if change.name not in there.get(change.model, {}):
            state, missing[change.key] = "missing", commands
        typed = [records.command_line(*command) for command in commands]
        rows.append({"name": change.key, "state": state, "commands": typed})
    planned = "\n".join(
        "\n    ".join([f"{row['state']:10}{row['name']}", *row["commands"]])
        for row in rows
    )
    if _DRY_RUN.value:
        console.show({"rows": rows}, planned)
        return
    print(planned, file=sys.stderr)
    failed = [key for key, commands in missing.items() if not _make(commands)]
    path = f"{_RESULTS.value}/ablation.json"
    console.show({"recorded": path, "failed": failed}, path)
    if failed:
        sys.exit(f"these rows failed: {', '.join(failed)}")


if __name__ == "__main__":
    console.run(main)

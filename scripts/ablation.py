"""Measure the rows of the ablation that are missing in results/ablation.json.

    python -m scripts.ablation --out=runs --dry_run
    python -m scripts.ablation --out=runs --only='vgg16_two_stages_without*'

A row changes one thing in a recipe. The script trains the changed network if
necessary and records its metrics on validation. It first prints the plan: which rows
are recorded, which are missing, and their commands. Interrupted runs are continued.
`scripts.reproduce --report` enters the rows into RESULTS.md.
"""

import subprocess
import sys
from collections.abc import Sequence

from absl import flags

from scripts import console, run_flags
from seeflower_jax import records
from seeflower_jax.studies import ablation

_OUT = flags.DEFINE_string("out", None, "Folder of the run directories.", required=True)
_ONLY = flags.DEFINE_list("only", [], "Names of rows, or patterns with *.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Only print the plan.")
_RESULTS = flags.DEFINE_string("results", "results", "Folder of recorded results.")
flags.adopt_module_key_flags(run_flags)

Commands = Sequence[tuple[str, list[str]]]


def _run(commands: Commands) -> bool:
    """Run scripts up to the first that fails; return whether all succeeded."""
    for script, arguments in commands:
        command = [sys.executable, "-m", f"scripts.{script}", *arguments]
        if subprocess.run(command).returncode:
            return False
    return True


def main(_) -> None:
    recorded = ablation.load_results(_RESULTS.value)
    rows, missing = [], {}
    for change in ablation.select(_ONLY.value):
        commands = change.commands(_OUT.value, **run_flags.options())
        commands[-1][1].append(f"--results={_RESULTS.value}")
        state = "recorded"
        if change.name not in recorded.get(change.model, {}):
            state, missing[change.key] = "missing", commands
        typed = [records.command_line(*command) for command in commands]
        rows.append({"name": change.key, "state": state, "commands": typed})
    plan = "\n".join(
        "\n    ".join([f"{row['state']:10}{row['name']}", *row["commands"]])
        for row in rows
    )
    if _DRY_RUN.value:
        console.show({"rows": rows}, plan)
        return
    print(plan, file=sys.stderr)
    failed = [key for key, commands in missing.items() if not _run(commands)]
    path = f"{_RESULTS.value}/ablation.json"
    console.show({"recorded": path, "failed": failed}, path)
    if failed:
        sys.exit(f"these rows failed: {', '.join(failed)}")


if __name__ == "__main__":
    console.run(main)

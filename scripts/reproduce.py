"""Makes the runs of the paper's tables that are missing, and the tables and figures.

    python -m scripts.reproduce --out=runs --dry_run
    python -m scripts.reproduce --out=runs --only=table_4.1,inception_v3_official
    python -m scripts.reproduce --out=smoke --budget=smoke
    python -m scripts.reproduce --record='runs/*'
    python -m scripts.reproduce --report

The plan is shown first: which runs are finished, which are not, the command of each.
Interrupted ones are gone on with. OUT gets a run directory each, REPORT.md and the
figures. --report writes RESULTS.md from results/ alone; --record copies the results of
finished runs there before.
"""

import glob
import os
import pathlib
import sys

from absl import app, flags

from scripts import console, run_flags
from seeflower_jax import reproduction

_OUT = flags.DEFINE_string("out", None, "The folder of the run directories.")
_ONLY = flags.DEFINE_list("only", [], "Rows or tables, or patterns of them with *.")
_SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds of each row, such as 0,1,2.")
_BUDGET = flags.DEFINE_enum(
    "budget",
    "full",
    list(reproduction.BUDGETS),
    "full: all; cpu: what two cores can do; smoke: everything, tiny, to see it run.",
)
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Only shows the plan.")
_RECORD = flags.DEFINE_list("record", [], "Run directories, or patterns of them.")
_REPORT = flags.DEFINE_bool("report", False, "Writes RESULTS.md.")
flags.adopt_module_key_flags(run_flags)
flags.register_validator(
    "seeds", lambda seeds: all(map(str.isdigit, seeds)), "expected numbers"
)

ROOT = pathlib.Path(__file__).parents[1]


def _finished(pattern: str) -> list[str]:
    """The finished runs among the folders of a pattern; a path as it is."""
    if not glob.has_magic(pattern):
        return [pattern]
    found = glob.glob(os.path.expanduser(f"{pattern}/config.json"))
    folders = sorted(map(os.path.dirname, found))
    return [folder for folder in folders if os.path.exists(f"{folder}/result.json")]


def main(_) -> None:
    finished = [run for pattern in _RECORD.value for run in _finished(pattern)]
    written = [str(reproduction.record(run, ROOT / "results")) for run in finished]
    if _RECORD.value or _REPORT.value:
        reproduction.write_results(ROOT / "results", ROOT / "RESULTS.md")
        written.append(str(ROOT / "RESULTS.md"))
        console.show({"written": written}, "\n".join(written))
        return
    if _OUT.value is None:
        raise app.UsageError("name the folder of the runs by --out, or give --report")

    def plan(rows, seeds):
        return reproduction.plan(
            rows, seeds, _OUT.value, _BUDGET.value, **run_flags.options()
        )

    seeds = [int(seed) for seed in _SEEDS.value]
    runs = plan(reproduction.select(_ONLY.value, _BUDGET.value), seeds)
    planned = "\n".join(f"{r.state:18}{r.name}\n    {r.command}" for r in runs)
    if _DRY_RUN.value:
        found = [dict(name=r.name, state=r.state, command=r.command) for r in runs]
        console.show({"runs": found}, planned)
        return
    print(planned, file=sys.stderr)
    failed = reproduction.run_all(runs)
    everything = plan(reproduction.ROWS, sorted({*seeds, *reproduction.SEEDS}))
    report = str(reproduction.write_report(_OUT.value, everything))
    console.show({"report": report, "failed": failed}, report)
    if failed:
        sys.exit(f"these runs failed: {', '.join(failed)}")


if __name__ == "__main__":
    console.run(main)

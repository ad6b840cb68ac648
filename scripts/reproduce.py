"""Train the missing runs of the paper's tables, and write the tables and figures.

    python -m scripts.reproduce --out=runs --dry_run
    python -m scripts.reproduce --out=runs --only=table_4.1,inception_v3_official
    python -m scripts.reproduce --out=smoke --budget=smoke
    python -m scripts.reproduce --record='runs/*'
    python -m scripts.reproduce --report

The script first prints the plan: the state of each run and its command. Interrupted
runs are continued. OUT gets a run directory for each run, REPORT.md and the figures.
--report writes RESULTS.md from results/. --record first copies the results of finished
runs to results/. A pattern leaves out runs without test metrics, smoke runs and runs on
other images. If a run is refused, the others are recorded, and the exit status is 1.
"""

import pathlib
import sys

from absl import app, flags

from scripts import console, run_flags
from seeflower_jax.studies import record, reproduce
from seeflower_jax.studies.rows import BUDGETS, ROWS, SEEDS, select

_OUT = flags.DEFINE_string("out", None, "Folder of the run directories.")
_ONLY = flags.DEFINE_list("only", [], "Names of rows or tables, or patterns with *.")
_SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds of each row, such as 0,1,2.")
_BUDGET = flags.DEFINE_enum(
    "budget",
    "full",
    list(BUDGETS),
    "full: all rows; cpu: rows for two cores; smoke: tiny runs that test all rows.",
)
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Only print the plan.")
flags.DEFINE_enum(
    "dtype",
    None,
    ["float32", "bfloat16"],
    "Precision of the computation; the recipe decides by default.",
)
_RECORD = flags.DEFINE_list("record", None, "Run directories, or patterns with *.")
_REPORT = flags.DEFINE_bool("report", False, "Write RESULTS.md.")
flags.adopt_module_key_flags(run_flags)
flags.register_validator(
    "seeds",
    lambda seeds: all(map(str.isdecimal, seeds)) and 0 < len(seeds) == len(set(seeds)),
    "expected different numbers, such as 0,1,2",
)
flags.register_validator(
    "record",
    lambda runs: runs is None or runs and all(runs),
    "expected run directories, or patterns of them",
)
flags.register_validator("out", lambda out: out != "", "expected a folder")

ROOT = pathlib.Path(__file__).parents[1]


def main(_) -> None:
    if _RECORD.value or _REPORT.value:
        if _DRY_RUN.value:
            raise app.UsageError("--dry_run excludes --record and --report")
        results, page = ROOT / "results", ROOT / "RESULTS.md"
        recorded, refused = record.record_all(_RECORD.value or [], results)
        record.write_results(results, page)
        written = [str(path) for path in (*recorded, page)]
        console.show({"written": written, "refused": refused}, "\n".join(written))
        if refused:
            sys.exit(f"these runs were refused: {', '.join(refused)}")
        return
    if _OUT.value is None:
        raise app.UsageError("expected --out with the folder of the runs, or --report")

    def plan(rows, seeds):
        options = run_flags.options()
        return reproduce.plan(rows, seeds, _OUT.value, _BUDGET.value, **options)

    seeds = [int(seed) for seed in _SEEDS.value]
    runs = plan(select(_ONLY.value, _BUDGET.value), seeds)
    text = "\n".join(f"{r.state:18}{r.name}\n    {r.command}" for r in runs)
    if _DRY_RUN.value:
        states = [dict(name=r.name, state=r.state, command=r.command) for r in runs]
        console.show({"runs": states}, text)
        return
    print(text, file=sys.stderr)
    failed = reproduce.run_all(runs)
    everything = plan(ROWS, sorted({*seeds, *SEEDS}))
    report = str(reproduce.write_report(_OUT.value, everything))
    console.show({"report": report, "failed": failed}, report)
    if failed:
        sys.exit(f"these runs failed: {', '.join(failed)}")


if __name__ == "__main__":
    console.run(main)

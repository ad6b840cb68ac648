"""List what was not measured, each with the command that measures it.

    text = missing(rows.ROWS, rows.SEEDS, results, ablated)

The lists are the end of RESULTS.md.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from seeflower_jax import records
from seeflower_jax.studies.ablation import CHANGES, Change
from seeflower_jax.studies.rows import ENSEMBLES, TEACHER, Ensemble, Row
from seeflower_jax.studies.tables import Ablated

_INTRODUCTION = (
    "## Gaps\n\nThese runs were not measured. Each command makes the runs of one row. "
    "`python -m scripts.reproduce --record='runs/*'` records finished runs. An "
    "ensemble needs the runs of its `--workdirs`. A row of the ablation that changes "
    "only the evaluation needs the run of its recipe in `runs`.\n"
)
_TEACHER_KEY = "distillation.logits"


def missing(
    rows: Sequence[Row],
    seeds: Sequence[int],
    results: Iterable[Mapping],
    ablated: Ablated,
    changes: Iterable[Change] = CHANGES,
    ensembles: Iterable[Ensemble] = ENSEMBLES,
) -> str:
    """Format the missing runs, ensembles and rows of the ablation.

    A result in any type counts as measured.

    Args:
      rows: rows such as `rows.ROWS`.
      seeds: seeds of each row that depends on the seed.
      results: contents of `result.json`.
      ablated: rows from `ablation.load_results`.
      changes: rows of the ablation.
      ensembles: ensembles of runs.

    Returns:
      A section of Markdown from level 2; '' if nothing is missing.
    """
    recorded = {(r["model"], r["split"], r["recipe"], r["seed"]) for r in results}
    commands: dict[bool, list[str]] = {True: [], False: []}
    for row in rows:
        # All seeds give the same network with `linear`.
        wanted = seeds[:1] if row.recipe == "linear" else seeds
        if absent := [seed for seed in wanted if (*row.key, seed) not in recorded]:
            commands[row.cpu].append(_row_command(row, absent))
    unmeasured = [c for c in changes if c.name not in ablated.get(c.model, {})]
    distilled = [change for change in unmeasured if _TEACHER_KEY in change.values]
    lists = {
        "Up to three hours a run on two CPU cores:": commands[True],
        "Longer, best on a GPU:": commands[False],
        "Ensembles of finished runs:": [
            ensemble_command(ensemble, "--results=results")
            for ensemble in ensembles
            if ("ensemble", "official", ensemble.recipe, 0) not in recorded
        ],
        "A distilled network, from the teacher that the first command writes:": [
            command for change in distilled for command in _distillation(change)
        ],
        "The ablation, minutes to two hours a row on two CPU cores:": [
            _change_command(change) for change in unmeasured if change not in distilled
        ],
    }
    parts = [
        "".join(f"    {line}\n" for line in (f"# {title}", *commands))
        for title, commands in lists.items()
        if commands
    ]
    return "\n".join([_INTRODUCTION, *parts]) if parts else ""


def ensemble_command(ensemble: Ensemble, *flags: str) -> str:
    """Return the command that evaluates an ensemble of the runs in `runs`.

    Args:
      ensemble: the ensemble.
      *flags: further flags of `scripts.ensemble`.
    """
    workdirs = ",".join(f"runs/{name}_seed0" for name in ensemble.members)
    method = ["--joint_head"] if ensemble.joint_head else []
    arguments = [*method, f"--workdirs={workdirs}", *flags]
    return records.command_line("ensemble", arguments)


def _row_command(row: Row, seeds: Sequence[int]) -> str:
    joined = ",".join(map(str, seeds))
    arguments = ["--out=runs", f"--only={row.name}", f"--seeds={joined}"]
    return records.command_line("reproduce", arguments)


def _change_command(change: Change) -> str:
    return records.command_line("ablation", ["--out=runs", f"--only={change.key}"])


def _distillation(change: Change) -> Iterator[str]:
    """Yield the commands that write the teacher of a network, and train the network."""
    path = change.values[_TEACHER_KEY]
    yield ensemble_command(TEACHER, f"--teacher={path}", "--notest")
    yield _change_command(change)

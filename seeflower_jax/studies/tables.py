"""Tables of results beside the paper's own figures, in Markdown.

    text = tables(reproduction.ROWS, results)     # results as `result.json` has them

Figures come from results alone: a run that is not there is shown as missing.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

NAMES = {
    "baseline": "baseline",
    "vgg16": "VGG16",
    "vgg19": "VGG19",
    "inception_v3": "Inception-v3",
    "ensemble": "ensemble",
}
_HEADER = (
    "network",
    "recipe",
    "paper",
    "its code",
    "test top-1",
    "mean class",
    "s.e.",
    "validation",
    "seeds",
    "weights",
    "device",
    "training",
)
_NOTES = """\
`paper` and `its code` are the figures of the paper and of its code's repository, which
are of different runs of the author's. `test top-1` is the share of right pictures,
`mean class` the mean of that share over the classes; of several seeds they are means,
with the range in brackets. `s.e.` is the standard error of `test top-1` that comes from
the number of test pictures, the same for any number of seeds. `validation` is top-1.
`weights` says whether the ImageNet weights are the published ones, by the hash of the
file or of what it holds, or an approximation of them. `training` is the time of one
run, without the evaluation.
"""


def share(value: float | None, digits: int = 4) -> str:
    """A share in [0, 1] as `.9037`; an empty string for None."""
    return "" if value is None else re.sub(r"^0(?=\.)", "", f"{value:.{digits}f}")


def accuracies(result: Mapping) -> str:
    """The metrics of the splits of a result, for a terminal: a line each.

    Args:
      result: `{"validation": {"top1": ..., ...}, "test": ...}`; other keys are left.
    """
    names = ("top-1", "mean class", "top-5", "loss", "pictures")
    lines = [f"{'':12}" + "".join(f"{name:>12}" for name in names)]
    for split in ("train", "validation", "test"):
        if found := result.get(split):
            values = [share(found[k]) for k in ("top1", "mean_class_top1", "top5")]
            values += [f"{found['loss']:.4f}", str(found["count"])]
            lines.append(f"{split:12}" + "".join(f"{value:>12}" for value in values))
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    """Their mean and, of several, their range."""
    if len(values) == 1:
        return share(values[0])
    low, high = min(values), max(values)
    return f"{share(np.mean(values))} [{share(low)}, {share(high)}]"


def _unique(values: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(values))


def _duration(result: Mapping) -> str:
    seconds = sum(s for k, s in result["seconds"].items() if k != "evaluation")
    if not seconds:
        return ""  # nothing was trained
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _weights(result: Mapping) -> str:
    exact = result["weights"]["exact"]
    return {True: "exact", False: "approximate", None: "random"}[exact]


@dataclasses.dataclass(frozen=True)
class Group:
    """The results of one row, by seed.

    Attributes:
      model, split, recipe: of all of them.
      results: in the order of their seeds.
    """

    model: str
    split: str
    recipe: str
    results: tuple[dict, ...]

    def values(self, split: str, metric: str) -> list[float]:
        """A metric of a split, of each seed that has it."""
        return [r[split][metric] for r in self.results if split in r]

    def cells(self) -> list[str]:
        """From `test top-1` on."""
        top1 = self.values("test", "top1")
        mean = np.mean(top1)
        error = np.sqrt(mean * (1 - mean) / self.results[0]["test"]["count"])
        validation = self.values("validation", "top1")
        return [
            _spread(top1),
            _spread(self.values("test", "mean_class_top1")),
            share(error),
            _spread(validation) if validation else "none",
            ", ".join(str(r["seed"]) for r in self.results),
            _unique(map(_weights, self.results)),
            _unique(r["device"] for r in self.results),
            _unique(map(_duration, self.results)),
        ]


def group(results: Iterable[Mapping]) -> dict[tuple[str, str, str], Group]:
    """Results by (model, split, recipe)."""
    groups = {}
    for result in sorted(results, key=lambda r: r["seed"]):
        key = result["model"], result["split"], result["recipe"]
        groups.setdefault(key, []).append(result)
    return {key: Group(*key, tuple(found)) for key, found in groups.items()}


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _key(row) -> tuple[str, str, str]:
    return row.model, row.split, row.recipe


def _row_cells(row, found: Group | None) -> list[str]:
    figures = [share(v, 3) for v in (row.paper, row.code)]
    missing = ["missing"] + [""] * (len(_HEADER) - 5)
    cells = found.cells() if found else missing
    return [NAMES[row.model], row.recipe, *figures, *cells]


def _table(rows, groups) -> str:
    return _markdown(_HEADER, (_row_cells(row, groups.get(_key(row))) for row in rows))


def _comparison(published, groups) -> str:
    lines = [
        [who, how, share(figure, 3), "", where] for who, how, figure, where in published
    ]
    for (model, split, recipe), found in groups.items():
        if split == "official" and recipe == "best":
            figures = (
                _spread(found.values("test", metric))
                for metric in ("top1", "mean_class_top1")
            )
            name = NAMES.get(model, model)
            how = f"{name}, {_unique(map(_weights, found.results))} weights"
            lines.append(["here", how, *figures, "results"])
    if lines[-1][0] != "here":
        lines.append(["here", "best recipe", "missing", "", ""])
    return _markdown(("who", "method", "top-1", "mean class", "from"), lines)


def tables(
    rows: Sequence, published: Sequence[tuple], results: Iterable[Mapping]
) -> str:
    """The paper's tables 4.1, 4.2 and 4.3, and what goes beyond them.

    Args:
      rows: as `reproduction.ROWS`; those without a result are shown as missing.
      published: as `reproduction.PUBLISHED`.
      results: as `result.json` has them.

    Returns:
      Sections of Markdown from level 2.
    """
    groups = group(results)

    def section(title, table, split):
        own = [row for row in rows if row.table == table and row.split in split]
        return f"## {title}\n\n{_table(own, groups)}" if own else ""

    known = set(map(_key, rows))
    others = [found for key, found in groups.items() if key not in known]
    parts = [
        _NOTES,
        section("Table 4.1: the baseline network", "4.1", ("official", "reversed")),
        section("Table 4.2 (a): the official split", "4.2", ("official",)),
        section("Table 4.2 (b): the splits reversed", "4.2", ("reversed",)),
        section("Beyond the paper: 2,040 training pictures", "trainval", ("trainval",)),
        "## Table 4.3: other methods on the official split\n\n"
        "The figures of others are as published, most as mean class accuracy; `added` "
        "are those that the paper does not have.\n\n" + _comparison(published, groups),
    ]
    if others:
        cells = (
            [NAMES.get(g.model, g.model), g.split, g.recipe, *g.cells()] for g in others
        )
        header = ("network", "split", "recipe", *_HEADER[4:])
        parts.append(f"## Other recipes\n\n{_markdown(header, cells)}")
    return "\n".join(part for part in parts if part)


def ablation(
    recorded: Mapping[str, Mapping[str, Mapping]],
    results: Iterable[Mapping],
    changes: Sequence = (),
) -> str:
    """What changes of the recipes do on validation; Markdown from level 2.

    Args:
      recorded: ablation.json, {model: {change: metrics}}.
      results: as `result.json` has them; of seed 0 of the best recipes the rows that
        the changes are compared to.
      changes: as `ablation.CHANGES`; those without figures are shown as missing.
    """
    best = {
        r["model"]: r["validation"]["top1"]
        for r in results
        if (r["split"], r["recipe"], r["seed"]) == ("official", "best", 0)
    }
    rows = []
    for model in dict.fromkeys([*(change.model for change in changes), *recorded]):
        own, found = best.get(model), recorded.get(model, {})
        rows.append([NAMES[model], "as it is", share(own) or "missing", "", ""])
        for name, entry in found.items():
            top1 = entry["top1"]
            difference = "" if own is None else f"{top1 - own:+.4f}".replace("0.", ".")
            rows.append(
                [NAMES[model], name, share(top1), difference, entry["config_hash"]]
            )
        rows += [
            [NAMES[model], change.name, "missing", "", ""]
            for change in changes
            if change.model == model and change.name not in found
        ]
    if not rows:
        return ""
    header = ("network", "change", "validation top-1", "difference", "config")
    return (
        "## Ablation\n\nOf the best recipes on the official split, seed 0: what they "
        "have on the 1,020 validation pictures (standard error .008 to .015) with what "
        "is named changed. `head alone` is without the stages after the first, so that "
        "the network under the new head is as ImageNet left it. Test was not looked "
        "at. `results/ablation.json` has the commands.\n\n" + _markdown(header, rows)
    )


def gaps(rows: Sequence, seeds: Sequence[int], results: Iterable[Mapping]) -> str:
    """What is missing, each with the command that makes it; Markdown from level 2."""
    groups = group(results)
    lines = {True: [], False: []}
    for row in rows:
        found = groups.get(_key(row))
        there = {result["seed"] for result in found.results} if found else ()
        missing = ",".join(str(seed) for seed in seeds if seed not in there)
        if missing:
            lines[row.cpu].append(
                f"    python -m scripts.reproduce --out=runs --only={row.name} "
                f"--seeds={missing}\n"
            )
    if not any(lines.values()):
        return ""
    parts = [
        "## Missing runs\n\nEach command makes runs of one row; "
        "`python -m scripts.reproduce --record='runs/*'` puts finished ones here.\n"
    ]
    for cpu, title in ((True, "Two CPU cores do these"), (False, "These need a GPU")):
        if lines[cpu]:
            parts.append(f"{title}:\n\n{''.join(lines[cpu])}")
    return "\n".join(parts)


def ablation_gaps(recorded: Mapping[str, Mapping], changes: Iterable) -> str:
    """Rows of the ablation that are missing, with their commands, likewise.

    Args:
      recorded, changes: as of `ablation`.
    """
    commands = [
        f"    python -m scripts.ablation --out=runs --only={change.key}\n"
        for change in changes
        if change.name not in recorded.get(change.model, {})
    ]
    if not commands:
        return ""
    return (
        "## Missing rows of the ablation\n\nOn two CPU cores each takes from minutes, "
        "where the head alone is trained or nothing, to two hours. Where only the "
        "evaluation differs, the run of the best recipe has to be in `runs`.\n\n"
        + "".join(commands)
    )


def records(results: Iterable[Mapping], name) -> str:
    """The commands and versions of all results; Markdown from level 2.

    Args:
      results: as `result.json` has them.
      name: function of a result, the name of its run.
    """
    parts = ["## Records\n"]
    for result in results:
        versions = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
        commit = (result["git_commit"] or "unknown").replace("-dirty", " (changed)")
        parts.append(
            f"`results/{name(result)}.json`: config {result['config_hash']}, commit "
            f"{commit}, {versions}\n\n    {result['command']}\n"
        )
    return "\n".join(parts)

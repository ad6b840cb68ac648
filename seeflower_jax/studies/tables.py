"""Format results next to the accuracies of the paper, as Markdown tables.

    text = paper_tables(rows.ROWS, rows.PUBLISHED, results)   # of `record.load_results`

All measured values come from results. The tables show what was measured;
`gaps.missing` lists what was not.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from seeflower_jax import records
from seeflower_jax.figures import text
from seeflower_jax.studies.rows import FLOAT32, NAMES, Published, Row, dtype_of

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
- `paper` and `its code` are the accuracies in the paper and in the repository of its
  code. The author measured them in different runs.
- `test top-1` is the share of images that are classified correctly. `mean class` is the
  mean of this share over the classes. For several seeds, the table has the mean and the
  range of both.
- `s.e.` is the standard error of `test top-1`. It comes from the number of test images
  and is the same for any number of seeds.
- `validation` is top-1 on the validation split.
- `weights` says whether the ImageNet weights are published or approximate. The hash of
  the file, or of its content, decides.
- A type after the recipe, as in `best, bfloat16`, is the type of the computation. All
  other results are in float32. A mean of several seeds never mixes types.
- `training` is the time of one run, without the evaluation.
"""
# Commits of recorded results with views that were not antialiased.
_WITHOUT_ANTIALIASING = (
    "7a04ffbc16bdbdd862f802558755b72ba420b158",
    "48d0d9ad4b34d9a8607a99cd5e0fe88048d6b969",
    "1de9344d30137577fa1c5542bbca52fc5b93e770",
    "949ff0125b464d5dc82cc9e821e2128a5f1c7dec",
    "b379a881868d2e4fa284e17a0b226558674d2f4a",
    "7635aff964425e2c4864c70c7dfe6c519194902f",
)


def share(value: float | None, digits: int = 4) -> str:
    """Format a share in [0, 1] as `.9037`; return an empty string for None."""
    return "" if value is None else re.sub(r"^0(?=\.)", "", f"{value:.{digits}f}")


def spread(values: Sequence[float]) -> str:
    """Format the mean, and the range if there are several values."""
    if len(values) == 1:
        return share(values[0])
    low, high = min(values), max(values)
    return f"{share(float(np.mean(values)))} [{share(low)}, {share(high)}]"


def _unique(values: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(values))


def _duration(result: Mapping) -> str:
    seconds = records.training_seconds_with_pretraining(result)
    if not seconds:
        return ""  # an ensemble is not trained
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def weights(result: Mapping) -> str:
    """Return whether the ImageNet weights of a result are exact or approximate."""
    exact = result["weights"]["exact"]
    return {True: "exact", False: "approximate", None: "random"}[exact]


@dataclasses.dataclass(frozen=True)
class Group:
    """The results of one row in one type, by seed.

    Attributes:
      model, split, recipe, dtype: names, the same in all results.
      results: results in the order of their seeds.
    """

    model: str
    split: str
    recipe: str
    dtype: str
    results: tuple[Mapping, ...]

    @property
    def key(self) -> tuple[str, str, str]:
        """The model, split and recipe, which its row has, too."""
        return self.model, self.split, self.recipe

    @property
    def label(self) -> str:
        """The recipe, with the type of the computation if it is not float32."""
        return self.recipe if self.dtype == FLOAT32 else f"{self.recipe}, {self.dtype}"

    def values(self, split: str, metric: str) -> list[float]:
        """Return a metric of a split for each seed that has it."""
        return [r[split][metric] for r in self.results if split in r]

    def cells(self) -> list[str]:
        """Return the cells of a table from `test top-1` on."""
        top1 = self.values("test", "top1")
        mean = np.mean(top1)
        error = np.sqrt(mean * (1 - mean) / self.results[0]["test"]["count"])
        validation = self.values("validation", "top1")
        return [
            spread(top1),
            spread(self.values("test", "mean_class_top1")),
            share(error),
            spread(validation) if validation else "none",
            ", ".join(str(r["seed"]) for r in self.results),
            _unique(map(weights, self.results)),
            _unique(r["device"] for r in self.results),
            _unique(map(_duration, self.results)),
        ]


def group(results: Iterable[Mapping]) -> list[Group]:
    """Group results by model, split, recipe and type; float32 comes first.

    Results in different types are not averaged.
    """
    members: dict[tuple[str, str, str, str], list[Mapping]] = {}
    for result in sorted(results, key=lambda r: (dtype_of(r) != FLOAT32, r["seed"])):
        key = result["model"], result["split"], result["recipe"], dtype_of(result)
        members.setdefault(key, []).append(result)
    return [Group(*key, tuple(of_key)) for key, of_key in members.items()]


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a table; its cells may have any characters."""
    cells = [[text.printable(cell).replace("|", r"\|") for cell in row] for row in rows]
    lines = [header, ["---"] * len(header), *cells]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _row_cells(row: Row, measured: Group) -> list[str]:
    published = [share(value, 3) for value in (row.paper, row.code)]
    return [NAMES[row.model], measured.label, *published, *measured.cells()]


def _comparison(published: Sequence[Published], groups: Sequence[Group]) -> str:
    """Format table 4.3: published methods, then the recipes of this project."""
    lines = [
        [entry.authors, entry.method, share(entry.accuracy, 3), "", entry.origin]
        for entry in published
    ]
    measured = [
        [
            "this project",
            f"{NAMES.get(g.model, g.model)}, {g.label}, "
            f"{_unique(map(weights, g.results))} weights",
            spread(g.values("test", "top1")),
            spread(g.values("test", "mean_class_top1")),
            "results",
        ]
        for g in groups
        if g.split == "official" and g.recipe in ("best", "linear")
    ]
    lines += measured
    return markdown(("authors", "method", "top-1", "mean class", "source"), lines)


def _antialiasing(results: Iterable[Mapping]) -> str:
    """Format which results were measured without antialiasing; '' if none was."""
    commits = {str(r.get("git_commit")).removesuffix("-dirty") for r in results}
    early = [commit[:7] for commit in _WITHOUT_ANTIALIASING if commit in commits]
    if not early:
        return ""
    return (
        f"Results of the commits {', '.join(early)} were measured without "
        "antialiasing, which changes what VGG (224 of 280 pixels) and the baseline (32 "
        "of 40 pixels) see.\n"
    )


def _other_recipes(rows: Sequence[Row], groups: Sequence[Group]) -> str:
    """Format the results of recipes that the paper does not have; '' if none."""
    code = {row.key: row.code for row in rows if row.table == "other"}
    known = {row.key for row in rows} - code.keys()
    cells = [
        [
            *(NAMES.get(g.model, g.model), g.split, g.label),
            share(code.get(g.key), 3),
            *g.cells(),
        ]
        for g in groups
        if g.key not in known
    ]
    header = ("network", "split", "recipe", *_HEADER[3:])
    return f"## Other recipes\n\n{markdown(header, cells)}" if cells else ""


def paper_tables(
    rows: Sequence[Row], published: Sequence[Published], results: Iterable[Mapping]
) -> str:
    """Format the paper's tables 4.1, 4.2 and 4.3, and results beyond the paper.

    Args:
      rows: rows such as `rows.ROWS`; a row without a result is left out.
      published: methods such as `rows.PUBLISHED`.
      results: contents of `result.json`.

    Returns:
      Sections of Markdown from level 2.
    """
    results = list(results)
    groups = group(results)

    def section(title: str, table: str, splits: Sequence[str]) -> str:
        cells = [
            _row_cells(row, measured)
            for row in rows
            if row.table == table and row.split in splits
            for measured in groups
            if measured.key == row.key
        ]
        return f"## {title}\n\n{markdown(_HEADER, cells)}" if cells else ""

    parts = [
        _NOTES,
        _antialiasing(results),
        section("Table 4.1: the baseline network", "4.1", ("official", "reversed")),
        section("Table 4.2 (a): the official split", "4.2", ("official",)),
        section("Table 4.2 (b): the splits reversed", "4.2", ("reversed",)),
        section("Beyond the paper: 2,040 training images", "trainval", ("trainval",)),
        "## Table 4.3: other methods on the official split\n\n"
        "The accuracies of other methods are published values, mostly mean class "
        "accuracy. `added` marks methods that the paper does not have.\n\n"
        + _comparison(published, groups),
        _other_recipes(rows, groups),
    ]
    return "\n".join(part for part in parts if part)


Ablated = Mapping[str, Mapping[str, Mapping]]


def ablation_table(ablated: Ablated, results: Iterable[Mapping]) -> str:
    """Format the effect of each change on validation; Markdown from level 2.

    Args:
      ablated: rows from `ablation.load_results`.
      results: contents of `result.json`. The changes are compared with the recipes of
        seed 0 in these results, in float32.
    """
    unchanged = {
        (r["model"], r["recipe"]): r["validation"]["top1"]
        for r in results
        if (r["split"], r["seed"], dtype_of(r)) == ("official", 0, FLOAT32)
        and "validation" in r
    }
    lines = []
    for model, entries in ablated.items():
        network = NAMES.get(model, model)
        for recipe in dict.fromkeys(e.get("recipe", "best") for e in entries.values()):
            before = unchanged.get((model, recipe))
            if before is not None:
                lines.append([network, recipe, "unchanged", share(before), "", ""])
            lines += [
                [network, recipe, name, *_change_cells(entry, before)]
                for name, entry in entries.items()
                if entry.get("recipe", "best") == recipe
            ]
    if not lines:
        return ""
    errors = [
        np.sqrt(entry["top1"] * (1 - entry["top1"]) / entry["count"])
        for entries in ablated.values()
        for entry in entries.values()
    ]
    header = ("network", "recipe", "change", "validation top-1", "difference", "config")
    return (
        "## Ablation\n\nEach row changes one thing in a recipe on the official "
        "split, seed 0. The metrics are for the 1,020 validation images (standard "
        f"errors {min(errors):.3f} to {max(errors):.3f}). `head alone` trains only "
        "the first stage, so the layers below the new head keep the ImageNet weights. "
        "The test split was not used. "
        "`results/ablation.json` has the commands.\n\n" + markdown(header, lines)
    )


def _change_cells(entry: Mapping, before: float | None) -> list[str]:
    """Return validation top-1, its difference from the recipe, and the config hash."""
    difference = "" if before is None else f"{entry['top1'] - before:+.4f}"
    hashed = entry["config_hash"]
    return [share(entry["top1"]), difference.replace("0.", "."), hashed]


def origins(results: Iterable[Mapping], name: Callable[[Mapping], str]) -> str:
    """Format the commands and versions of all results; Markdown from level 2.

    Args:
      results: contents of `result.json`.
      name: function of a result, the name of its run.
    """
    parts = ["## Records\n\nA command is valid at its commit. Recipes changed later.\n"]
    for result in results:
        versions = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
        commit = (result["git_commit"] or "unknown").replace("-dirty", " (changed)")
        parts.append(
            f"`results/{name(result)}.json`: config {result['config_hash']}, commit "
            f"{commit}, {versions}\n\n    {result['command']}\n"
        )
    return "\n".join(parts)

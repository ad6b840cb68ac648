"""List the rows of the paper's tables.

    for row in select(["table_4.1", "inception_v3_*"], "full"):
        print(row.name, row.config, row.paper)

A row is one network on one split with one recipe, for any number of seeds. Its name is
<model>_<split>_<recipe>, without the recipe if it is `best`. Accuracies are test top-1,
in [0, 1].
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from seeflower_jax import hints

SEEDS = (0, 1, 2)
BUDGETS = ("smoke", "cpu", "full")
FLOAT32 = "float32"  # the type that recipes compute in by default
# Flags of scripts that change the config of a run, by the config's flat keys.
FLAGS = {"data.dir": "data_dir", "data.cache_dir": "cache_dir", "model.dtype": "dtype"}
# The module in configs/ of each ImageNet network.
CONFIGS = {"vgg16": "vgg16", "vgg19": "vgg19", "inception_v3": "inception"}
# The networks' names in tables.
NAMES = {
    "baseline": "baseline",
    "vgg16": "VGG16",
    "vgg19": "VGG19",
    "inception_v3": "Inception-v3",
    "ensemble": "ensemble",
}


def _reversed_linear(size: int) -> tuple[tuple[str, Any], ...]:
    """Return the values of the recipe `linear` on the reversed split.

    It trains on 20 to 238 images of each class, and tests on 10. Four views of each
    image would exceed `ridge.MAX_VIEWS` in total, so each image has one view.
    """
    return (
        ("data.balance", "sampling"),
        ("stages.linear.all_views", False),
        ("test_time.hflip", False),
        ("test_time.views", ((size, 1.0),)),
    )


def suffix(recipe: str, dtype: str = FLOAT32) -> list[str]:
    """Return the parts of a name for a recipe and the type of its computation.

    The recipe `best` and the type float32, which are the defaults, have no part.
    """
    parts = [] if recipe == "best" else [recipe]
    return parts if dtype == FLOAT32 else [*parts, dtype]


def dtype_of(result: Mapping) -> str:
    """Return the type that a result was computed in.

    Results that were recorded before the key `dtype` existed are in float32.
    """
    return result.get("dtype", FLOAT32)


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
      table: table of the paper, 'trainval', or 'other' for other recipes.
      model, split, recipe: names, as in a result.
      config: module of configs/ and its argument, 'inception:paper'.
      paper: the accuracy in the paper, or None.
      code: the accuracy in the repository of the paper's code, from another run of the
        author, or None.
      cpu: whether two CPU cores train the row within three hours.
      changes: values of the config that the row changes, (flat key, value) pairs.
    """

    table: str
    model: str
    split: str
    recipe: str
    config: str
    paper: float | None = None
    code: float | None = None
    cpu: bool = False
    changes: tuple[tuple[str, Any], ...] = ()

    @property
    def key(self) -> tuple[str, str, str]:
        """The model, split and recipe, which its results have, too."""
        return self.model, self.split, self.recipe

    @property
    def name(self) -> str:
        """The name of its runs, without the seed."""
        return "_".join([self.model, self.split, *suffix(self.recipe)])


def _baseline_row(
    setting: str, split: str, paper: float, code: float | None = None
) -> Row:
    recipe, config = f"paper_{setting}", f"baseline:{setting}"
    return Row("4.1", "baseline", split, recipe, config, paper, code, cpu=True)


def _transfer_rows(
    split: str, accuracies: Mapping[str, tuple[float | None, float | None]]
) -> tuple[Row, ...]:
    """Return the rows of the ImageNet networks on a split.

    Args:
      split: split of the official images.
      accuracies: {model: (accuracy of the paper, accuracy of its code)}.
    """
    return tuple(
        Row(
            "4.2" if split != "trainval" else "trainval",
            model,
            split,
            recipe,
            f"{config}:{recipe}",
            *accuracies.get(model, (None, None)),
            cpu=recipe == "linear" or (recipe, split) == ("best", "official"),
            changes=(
                _reversed_linear(320 if model == "inception_v3" else 256)
                if (recipe, split) == ("linear", "reversed")
                else ()
            ),
        )
        for model, config in CONFIGS.items()
        for recipe in ("paper", "corrected", "best", "linear")
        if split != "trainval" or recipe == "best"
    )


def _stages_row(
    model: str, split: str, recipe: str, paper: float, code: float | None
) -> Row:
    config = f"{CONFIGS[model]}:{recipe}"
    return Row("4.2", model, split, recipe, config, paper, code, cpu=True)


# The accuracies of table 4.2, in the paper and in the repository of its code.
_OFFICIAL = {
    "vgg16": (0.757, 0.757),
    "vgg19": (0.781, 0.734),
    "inception_v3": (0.904, 0.880),
}
_REVERSED = {
    "vgg16": (0.889, 0.861),
    "vgg19": (0.925, None),
    "inception_v3": (0.962, None),
}

# The paper's tables 4.1, settings a to c, and 4.2, a and b.
ROWS = (
    _baseline_row("a", "official", 0.181),
    _baseline_row("b", "official", 0.302, 0.3126),
    _baseline_row("c", "reversed", 0.448, 0.425),
    *_transfer_rows("official", _OFFICIAL),
    *_transfer_rows("reversed", _REVERSED),
    *(
        _stages_row(model, "official", recipe, *_OFFICIAL[model])
        for model, recipe in (
            ("inception_v3", "three_stages"),
            ("vgg16", "two_stages"),
            ("vgg19", "two_stages"),
        )
    ),
    *(_stages_row(m, "reversed", "short", *_REVERSED[m]) for m in CONFIGS),
    *_transfer_rows("trainval", {}),
    *(
        Row("other", model, "official", recipe, f"{model}:{recipe}", None, code, True)
        for model, code in (("vgg16", 0.606), ("vgg19", 0.688))
        for recipe in ("top_only", "top_only_corrected")
    ),
)


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """Runs of seed 0 that are evaluated as one, on the official split.

    Attributes:
      recipe: recipe in the result, see `experiment.ensemble.describe`.
      members: names of the rows of the runs.
      joint_head: whether one head reads the features of all runs. By default, the
        probabilities of the runs are averaged.
    """

    recipe: str
    members: tuple[str, ...]
    joint_head: bool = False


def _networks(recipe: str) -> tuple[str, ...]:
    """Return the names of the rows of all networks with a recipe."""
    return tuple("_".join([m, "official", *suffix(recipe)]) for m in sorted(CONFIGS))


# The joint head of `linear` is the teacher of the distilled network.
TEACHER = Ensemble("linear_joint_head", _networks("linear"), joint_head=True)
ENSEMBLES = (
    Ensemble("best", _networks("best")),
    Ensemble("linear", _networks("linear")),
    Ensemble("best_joint_head", _networks("best"), joint_head=True),
    TEACHER,
    # The features of a network before and after its fine-tuning.
    Ensemble(
        "inception_v3_linear_best_joint_head",
        ("inception_v3_official_linear", "inception_v3_official"),
        joint_head=True,
    ),
)


@dataclasses.dataclass(frozen=True)
class Published:
    """A published method on the official test split, of table 4.3.

    Attributes:
      authors: authors and year.
      method: short description.
      accuracy: published accuracy.
      origin: 'table 4.3', or 'added' if the paper does not list the method.
    """

    authors: str
    method: str
    accuracy: float
    origin: str


PUBLISHED = (
    Published("Razavian et al. 2014", "OverFeat features, SVM", 0.868, "table 4.3"),
    Published("Qu 2018", "Inception-v3, fine-tuned", 0.904, "table 4.3"),
    Published("Kim et al. 2016", "features of three networks", 0.945, "added"),
    Published("Ge and Yu 2017", "ResNet-152, joint fine-tuning", 0.947, "added"),
    Published("Simon and Rodner 2015", "VGG19, part constellations", 0.953, "added"),
)


def select(patterns: Sequence[str], budget: str) -> list[Row]:
    """Return the rows of a budget whose names or tables match.

    Args:
      patterns: names, tables (`table_4.1`) or patterns with `*`; [] selects all rows.
      budget: one of `BUDGETS`; 'cpu' leaves out the rows that take longer than three
        hours on two CPU cores.

    Raises:
      ValueError: if a pattern matches nothing; the message lists similar names.
    """
    labels = {row: (row.name, f"table_{row.table}") for row in ROWS}
    known = list(dict.fromkeys(label for pair in labels.values() for label in pair))
    selected = hints.matching(patterns, known, "row or table")
    return [
        row
        for row, pair in labels.items()
        if selected.intersection(pair) and (budget != "cpu" or row.cpu)
    ]

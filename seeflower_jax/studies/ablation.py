"""List the changes of the ablation; each changes one thing in a recipe.

    for change in select(["vgg16_*"]):
        for script, arguments in change.commands("runs"):
            print(records.command_line(script, arguments))

A change sets values of the config, or changes how a trained network is evaluated. The
metrics are validation metrics of the official split, with seed 0 unless the change sets
it. `scripts.evaluate --ablation=NAME` records a row.
"""

import dataclasses
import functools
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from seeflower_jax import hints, records
from seeflower_jax.data import oxford_flowers
from seeflower_jax.experiment.evaluate import provenance
from seeflower_jax.experiment.settings import settings_of
from seeflower_jax.inference.run import Run
from seeflower_jax.pretrained import published
from seeflower_jax.studies.rows import CONFIGS, Row, suffix


@dataclasses.dataclass(frozen=True)
class Change:
    """A row of the ablation.

    Attributes:
      model: the network whose recipe is changed.
      name: name of the row.
      values: changed values of the config, by their flat keys; empty if only the
        evaluation differs.
      evaluation: flags of `scripts.evaluate`.
      recipe: name of the recipe that is changed.
    """

    model: str
    name: str
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    evaluation: Sequence[str] = ()
    recipe: str = dataclasses.field(kw_only=True)

    @property
    def key(self) -> str:
        """The name of its run directory, which also selects the row."""
        slug = re.sub(r"\W+", "_", self.name).lower().strip("_")
        return "_".join([self.model, *suffix(self.recipe), slug])

    def commands(
        self, out: str, changes: Mapping[str, Any] | None = None, weights_dir: str = ""
    ) -> list[tuple[str, list[str]]]:
        """Return the scripts and arguments that make the row, in their order.

        Args:
          out: the folder of the run directories. If only the evaluation differs, the
            folder must have the run of the recipe, with its name from `reproduce.plan`.
          changes: further values of the config, by their flat keys. The values that
            the row itself changes stay. If only the evaluation differs, only `data.dir`
            is used.
          weights_dir: folder of the published weight files; '' downloads them.
        """
        evaluate = ["--split=validation", *self.evaluation, f"--ablation={self.name}"]
        further = dict(changes or {})
        if not self.values:
            run = Row("", self.model, "official", self.recipe, "").name
            workdir = f"--workdir={out}/{run}_seed0"
            if folder := further.get("data.dir"):
                evaluate.append(f"--data_dir={folder}")
            return [("evaluate", [workdir, *evaluate])]
        workdir = f"--workdir={out}/{self.key}"
        if weights_dir:
            name = published.CATALOG[self.model].name
            further["init.weights"] = str(pathlib.Path(weights_dir) / name)
        values = dict(self.values)
        for key, value in further.items():
            values.setdefault(key, value)
        flags = (f"--config.{key}={_literal(value)}" for key, value in values.items())
        config = ":".join([f"configs/{CONFIGS[self.model]}.py", *suffix(self.recipe)])
        train = [f"--config={config}", workdir, "--notest", *flags]
        return [("train", train), ("evaluate", [workdir, *evaluate])]


def _literal(value: Any) -> str:
    """Format a value for a command line.

    Strings get double quotes, because the shell uses single quotes.
    """
    return str(value).replace("'", '"')


def check(run: Run, name: str) -> None:
    """Check that the ablation may have a row of a run.

    Args:
      run: the run.
      name: name of the row.

    Raises:
      ValueError: unless the run has the official split of the flowers, and the seed
        of the change with this name: 0 unless the change sets it.
    """
    settings = settings_of(run)
    model = run.network.spec.name
    named = [c for c in CHANGES if (c.model, c.name) == (model, name)]
    seed = named[0].values.get("seed", 0) if named else 0
    for key, value, expected in (
        ("data.source", settings.data.source, oxford_flowers.NAME),
        ("data.split", settings.data.split, "official"),
        ("seed", settings.seed, seed),
    ):
        if value != expected:
            raise ValueError(
                f"config.{key} of {run.workdir} is {value!r}; expected {expected!r}, "
                f"as in all rows of the ablation with the name {name!r}"
            )


def record(
    run: Run,
    name: str,
    metrics: Mapping[str, Any],
    folder: str | os.PathLike,
    command: str,
) -> None:
    """Enter a row into `ablation.json` of a folder of results.

    Args:
      run: a run that `check` accepts for this name.
      name: name of the row.
      metrics: metrics of the run on the validation split.
      folder: the folder of recorded results.
      command: command line, for the record.
    """
    entry = {key: metrics[key] for key in ("top1", "mean_class_top1", "count")} | {
        "recipe": run.config["recipe"],
        "config_hash": records.config_hash(run.config),
        "seed": run.config["seed"],
        "trained": run.result.get("command"),
        **provenance(run, command),
    }
    path = pathlib.Path(folder) / "ablation.json"
    records.add_entry(path, run.network.spec.name, name, entry)


def load_results(folder: str | os.PathLike) -> dict[str, dict[str, dict]]:
    """Read the recorded rows of a folder of results, {model: {name: metrics}}.

    Raises:
      DamagedFileError: if the file is damaged.
    """
    path = pathlib.Path(folder).expanduser() / "ablation.json"
    if not path.exists():
        return {}
    advice = "restore it, or delete it and record the rows with scripts.ablation"
    rows = records.read_json(path, advice)
    keys = {"top1", "count", "config_hash"}
    for model, entries in rows.items():
        for name, entry in entries.items() if isinstance(entries, dict) else [("", 0)]:
            if not isinstance(entry, dict) or not keys <= set(entry):
                raise records.DamagedFileError(
                    f"{path} is damaged: {model} {name} lacks one of {sorted(keys)}; "
                    f"{advice}"
                )
    return rows


def select(patterns: Sequence[str]) -> list[Change]:
    """Return the changes whose keys match one of the patterns; [] selects all.

    Raises:
      ValueError: if a pattern matches nothing; the message lists similar keys.
    """
    keys = hints.matching(patterns, [change.key for change in CHANGES], "row")
    return [change for change in CHANGES if change.key in keys]


def _in(stages: Sequence[str], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same values in several stages, by their flat keys."""
    return {
        f"stages.{stage}.{key}": value
        for stage in stages
        for key, value in values.items()
    }


def _linear(model: str, name: str, **values: Any) -> Change:
    return Change(model, name, values, recipe="linear")


def _one_view(model: str, **values: Any) -> Change:
    one = {"stages.linear.all_views": False, "test_time.hflip": False}
    return _linear(model, "one view", **one, **values)


def _sized(size: int) -> Change:
    values = {"eval.size": size, "test_time.views": ((size, 1.0), (size, 0.75))}
    return _linear("inception_v3", f"{size} pixels", **values)


def _two_epochs(seed: int, dtype: str) -> Change:
    values: dict[str, Any] = {
        "stage_order": ("head", "settle"),
        "stages.settle.epochs": 2,
    }
    name = "two epochs of fine-tuning"
    if dtype != "float32":
        name, values["model.dtype"] = f"{name}, {dtype}", dtype
    if seed:
        name, values["seed"] = f"{name}, seed {seed}", seed
    return Change("inception_v3", name, values, recipe="short")


_two_stages = functools.partial(Change, recipe="two_stages")
_three_stages = functools.partial(Change, "inception_v3", recipe="three_stages")


_HEAD_ALONE: dict[str, Any] = {"stage_order": ("head",)}
_TUNED = ("finetune", "settle")
_MIXED, _STEM = "backbone/mixed.*", "backbone/Conv2d.*"

CHANGES = (
    _three_stages("not mirrored", evaluation=("--nohflip",)),
    _three_stages(
        "256 pixels, not mirrored",
        evaluation=("--views=256", "--nohflip"),
    ),
    _three_stages(
        "224 pixels, not mirrored",
        evaluation=("--views=224", "--nohflip"),
    ),
    _three_stages(
        "central 87.5 %, not mirrored",
        evaluation=("--views=320:0.875", "--nohflip"),
    ),
    _three_stages(
        "also closer, where Grad-CAM points, not mirrored",
        evaluation=("--crop",),
    ),
    _three_stages("head alone", _HEAD_ALONE),
    _three_stages(
        "head alone, without label smoothing",
        _HEAD_ALONE | {"stages.head.label_smoothing": 0.0},
    ),
    _three_stages("head not trained first", {"stage_order": _TUNED}),
    _three_stages(
        "without the stage on larger images",
        {"stage_order": ("head", "finetune")},
    ),
    _three_stages(
        "one learning rate for all layers",
        _in(_TUNED, {"partition": ((f"head/.*|{_MIXED}", 1.0), (_STEM, None))}),
    ),
    _three_stages(
        "stem trained as well",
        _in(_TUNED, {"partition": (("head/.*", 3.0), ("backbone/.*", 1.0))}),
    ),
    _three_stages(
        "without label smoothing",
        _in(("head", *_TUNED), {"label_smoothing": 0.0}),
    ),
    _three_stages(
        "without mixup and CutMix",
        _in(("finetune",), {"augment.mixup": 0.0, "augment.cutmix": 0.0}),
    ),
    _three_stages(
        "colours not changed",
        _in(_TUNED, {"augment.brightness": 0.0, "augment.contrast": 0.0}),
    ),
    _three_stages("without the mean of weights", _in(_TUNED, {"ema_decay": 0.0})),
    _two_stages("vgg16", "also mirrored", evaluation=("--hflip",)),
    _two_stages("vgg16", "256 pixels", evaluation=("--views=256:0.875",)),
    _two_stages("vgg16", "head alone", _HEAD_ALONE),
    _two_stages(
        "vgg16",
        "head alone, on means of the last block",
        _HEAD_ALONE | {"model.pooled": (), "model.pooling": "average"},
    ),
    _two_stages(
        "vgg16",
        "head alone, bilinear pooling of the last block",
        _HEAD_ALONE | {"model.pooled": ("block5_conv3",), "model.pooling": "bilinear"},
    ),
    _two_stages("vgg16", "head not trained first", {"stage_order": ("finetune",)}),
    _two_stages(
        "vgg16",
        "all layers trained",
        _in(("finetune",), {"partition": (("head/.*", 10.0), ("backbone/.*", 1.0))}),
    ),
    _two_stages(
        "vgg16", "without the mean of weights", _in(("finetune",), {"ema_decay": 0.0})
    ),
    _two_stages("vgg19", "also mirrored", evaluation=("--hflip",)),
    _two_stages("vgg19", "256 pixels", evaluation=("--views=256:0.875",)),
    _one_view("inception_v3", **{"test_time.views": ((320, 1.0),)}),
    _linear("inception_v3", "two views", **{"test_time.hflip": False}),
    _linear("inception_v3", "blocks alone", **{"model.pooled": ("mixed[3-8]",)}),
    _linear("inception_v3", "last blocks", **{"model.pooled": ("mixed([789]|10)_.*",)}),
    _linear("inception_v3", "means alone", **{"model.pooling": "root_average"}),
    _linear("inception_v3", "means alone, no root", **{"model.pooling": "average"}),
    _linear("inception_v3", "bfloat16", **{"model.dtype": "bfloat16"}),
    _sized(256),
    _sized(384),
    # The file is made from the three runs of the recipe by
    # scripts.ensemble --joint_head --teacher.
    _linear(
        "inception_v3",
        "distilled from three networks",
        **{
            "distillation.logits": "runs/teacher_official.npz",
            "distillation.weight": 0.25,
        },
    ),
    Change(
        "inception_v3",
        "random erasing",
        {"stages.finetune.augment.erasing": 0.25},
        recipe="best",
    ),
    Change(
        "inception_v3",
        "batch statistics trained",
        {"stages.finetune.train_batch_stats": True},
        recipe="best",
    ),
    *(
        Change(model, "half tuned", {"init.pretrained_share": 0.5}, recipe="best")
        for model in ("inception_v3", "vgg16", "vgg19")
    ),
    _one_view("vgg16"),
    _one_view("vgg19"),
    *(
        _two_epochs(seed, dtype)
        for seed in (0, 1, 2)
        for dtype in ("float32", "bfloat16")
    ),
)

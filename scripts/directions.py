"""Measure two directions of the paper's conclusion: segmentation and parts.

    python -m scripts.directions --workdir=runs/inception_v3_official_linear_seed0
    python -m scripts.directions --workdir=... --only='*object*' --figure=parts.jpg
    python -m scripts.directions --workdir=... --test='whole image and object'

The run must have the recipe `linear`. Objects and parts are found without labels. One
linear head reads the features of the whole image and of its crops side by side, or the
logits of a head for each crop are averaged (`mean of`). The metrics are validation
metrics. --test adds the test metrics of one variant. The run directory keeps the
features of crops. --results=results enters the metrics into directions.json of that
folder, and `scripts.reproduce --report` enters them into RESULTS.md.
"""

from absl import flags

from scripts import console
from seeflower_jax import hints, records
from seeflower_jax.inference.run import load_run
from seeflower_jax.studies import directions

_WORKDIR = flags.DEFINE_string("workdir", None, "Run directory.", required=True)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder of the images, if it has moved since the training."
)
_LAYER = flags.DEFINE_string(
    "layer", None, "Layer in which objects and parts are found."
)
_ONLY = flags.DEFINE_list("only", [], "Names of variants, or patterns with *.")
_TEST = flags.DEFINE_enum(
    "test",
    None,
    list(directions.VARIANTS),
    "The variant to evaluate on the test split.",
)
_FIGURE = flags.DEFINE_string("figure", None, "Image file for the crops of ten images.")
_RESULTS = flags.DEFINE_string("results", None, "Folder of recorded results.")


def main(_) -> None:
    known = list(directions.VARIANTS)
    selected = hints.matching(_ONLY.value, known, "variant")
    names = [name for name in known if name in selected]
    study = directions.Study(load_run(_WORKDIR.value, _DATA_DIR.value), _LAYER.value)
    rows = {name: {"validation": study.row(name, "validation")} for name in names}
    if _TEST.value:
        row = rows.setdefault(_TEST.value, {})
        row["test"] = study.row(_TEST.value, "test")
    if _FIGURE.value:
        directions.draw(study, _FIGURE.value)
    if _RESULTS.value:
        directions.record(study, rows, _RESULTS.value, records.typed_command())
    lines = [
        f"{name:36}{split:12}{metrics['top1']:.4f}"
        for name, row in rows.items()
        for split, metrics in row.items()
    ]
    console.show({"rows": rows}, "\n".join(lines))


if __name__ == "__main__":
    console.run(main)

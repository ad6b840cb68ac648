r"""Makes the pictures that classes' scores are largest for.

    python -m scripts.activation_max --workdir=runs/inception_seed0 \
        --classes=5,7,33,100,73 --out=activation_max
    python -m scripts.activation_max --workdir=runs/inception_seed0 --form=plain \
        --judge=runs/vgg16_seed0 --out=activation_max_plain

Without --classes, all of them. --form=plain is the paper's objective on pixels; robust,
the default, gives recognisable flowers and looks at training pictures for it. OUT has
a PNG per class, a sheet of all, the score curves and result.json. --judge names the run
of another network; the result then counts the pictures whose class is its first answer;
--results=results enters the counts into activation_max.json there.
"""

from absl import flags

from scripts import console
from seeflower_jax import experiment, maximisation, records
from seeflower_jax.attribution import activation_max

_WORKDIR = flags.DEFINE_string("workdir", None, "The run directory.", required=True)
_OUT = flags.DEFINE_string("out", None, "The folder to write to.", required=True)
_CLASSES = flags.DEFINE_list("classes", [], "Class indices or names; all by default.")
_FORM = flags.DEFINE_enum(
    "form", "robust", list(activation_max.FORMS), "How pictures are written."
)
_SIZE = flags.DEFINE_integer("size", 0, "Side in pixels; 0 is the network's.", 0)
_STEPS = flags.DEFINE_integer("steps", 256, "Of the optimisation.", 1)
_SEEDS = flags.DEFINE_integer("seeds", 1, "Starts a class; the best score is kept.", 1)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 34, "Classes at once.", 1)
_RESULTS = flags.DEFINE_string("results", None, "Folder of recorded results.")
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Where the data is, if not where the run found it."
)
_JUDGE = flags.DEFINE_string("judge", None, "Run directory of another network.")


def main(_) -> None:
    result = maximisation.maximise_classes(
        experiment.load_run(_WORKDIR.value, _DATA_DIR.value),
        _OUT.value,
        _CLASSES.value,
        _FORM.value,
        size=_SIZE.value,
        steps=_STEPS.value,
        seeds=_SEEDS.value,
        batch_size=_BATCH_SIZE.value,
        judge=experiment.load_run(_JUDGE.value) if _JUDGE.value else None,
        command=records.typed_command(),
        results=_RESULTS.value,
    )
    counts = "".join(
        f"\nrecognised by {name}: {count} of {result['classes']}"
        for name, count in result["recognised"].items()
    )
    console.show(result, f"{_OUT.value}{counts}")


if __name__ == "__main__":
    console.run(main)

r"""Compute the images that maximise the scores of classes.

    python -m scripts.activation_max --workdir=runs/inception_seed0 \
        --classes=5,7,33,100,73 --out=activation_max
    python -m scripts.activation_max --workdir=runs/inception_seed0 --form=plain \
        --observer=runs/vgg16_seed0 --out=activation_max_plain

Without --classes, the script optimises an image for each class. --form=plain optimises
pixels, as the paper does. --form=robust, the default, gives recognisable flowers and
compares them with training images. OUT gets a PNG for each class, a sheet of all
images, the score curves and result.json. --observer takes the run directory of another
network. The result then counts the images that this network classifies correctly.
--results=results enters the counts into activation_max.json in that folder.
"""

from absl import flags

from scripts import console
from seeflower_jax import records
from seeflower_jax.attribution import activation_max
from seeflower_jax.explain import maximise
from seeflower_jax.inference.run import load_run

_WORKDIR = flags.DEFINE_string("workdir", None, "The run directory.", required=True)
_OUT = flags.DEFINE_string("out", None, "The folder to write to.", required=True)
_CLASSES = flags.DEFINE_list("classes", None, "Class indices or names; all by default.")
_FORM = flags.DEFINE_enum(
    "form", "robust", list(activation_max.FORMS), "How images are parametrised."
)
_SIZE = flags.DEFINE_integer(
    "size",
    None,
    "Side of the images in pixels; the network's input size by default.",
    lower_bound=1,
    upper_bound=2**12,
)
_STEPS = flags.DEFINE_integer("steps", 256, "Steps of the optimisation.", 1)
_SEEDS = flags.DEFINE_integer(
    "seeds", 1, "Starts for each class; the best score is kept.", 1
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 34, "Classes in a batch.", 1)
_OBSERVER = flags.DEFINE_string("observer", None, "Run directory of another network.")
_RESULTS = flags.DEFINE_string("results", None, "Folder of recorded results.")
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder of the images, if it has moved since the training."
)
flags.register_validator("out", lambda path: path != "", "expected a folder")


def main(_: list[str]) -> None:
    result = maximise.maximise_classes(
        load_run(_WORKDIR.value, _DATA_DIR.value),
        _OUT.value,
        _CLASSES.value,
        _FORM.value,
        size=_SIZE.value,
        steps=_STEPS.value,
        seeds=_SEEDS.value,
        batch_size=_BATCH_SIZE.value,
        observer=load_run(_OBSERVER.value) if _OBSERVER.value else None,
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

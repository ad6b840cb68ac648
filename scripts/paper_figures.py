r"""Draw the paper's Figures 4.5 and 4.6 for a run.

    python -m scripts.paper_figures --workdir=runs/inception_seed0 --out=figures
    python -m scripts.paper_figures --workdir=runs/vgg16_seed0 --out=figures \
        --classes='lotus,sunflower'

OUT gets two figures. figure_4_5.png shows the first test image of each class with its
saliency and Grad-CAM. figure_4_6.png shows the images that maximise the scores of these
classes, in the paper's form and in the robust form.
"""

from absl import flags

from scripts import console
from seeflower_jax import records
from seeflower_jax.explain.inputs import class_indices
from seeflower_jax.inference.run import load_run
from seeflower_jax.studies import paper_figures

_WORKDIR = flags.DEFINE_string("workdir", None, "The run directory.", required=True)
_OUT = flags.DEFINE_string("out", None, "Folder of the figures.", required=True)
_CLASSES = flags.DEFINE_list(
    "classes", list(map(str, paper_figures.PAPER_CLASSES)), "Class indices or names."
)
_STEPS = flags.DEFINE_integer(
    "steps", paper_figures.STEPS, "Steps of the maximisation.", 1
)
_SIZE = flags.DEFINE_integer(
    "size", None, "Side of the maximised images; the network's by default.", 1
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder of the images, if it has moved since the training."
)
flags.register_validator("out", lambda path: path != "", "expected a folder")


def main(_) -> None:
    run = load_run(_WORKDIR.value, _DATA_DIR.value)
    classes = class_indices(_CLASSES.value, run.network.class_names).tolist()
    paper_figures.draw(
        run,
        _OUT.value,
        classes,
        steps=_STEPS.value,
        size=_SIZE.value,
        command=records.typed_command(),
    )
    console.show({"out": _OUT.value}, _OUT.value)


if __name__ == "__main__":
    console.run(main)

r"""Draws the paper's Figures 4.5 and 4.6 for a run.

    python -m scripts.paper_figures --workdir=runs/inception_seed0 --out=figures
    python -m scripts.paper_figures --workdir=runs/vgg16_seed0 --out=figures \
        --classes='lotus,sunflower'

OUT gets figure_4_5.png: original, saliency and Grad-CAM in rows, over the first test
picture of each class; and figure_4_6.png: the pictures that maximise the same classes'
scores, in the paper's form and in the robust one.
"""

from absl import flags

from scripts import console
from seeflower_jax import experiment, explain, paper_figures, records

_WORKDIR = flags.DEFINE_string("workdir", None, "The run directory.", required=True)
_OUT = flags.DEFINE_string("out", None, "The folder to write to.", required=True)
_CLASSES = flags.DEFINE_list(
    "classes", list(map(str, paper_figures.PAPER_CLASSES)), "Class indices or names."
)
_STEPS = flags.DEFINE_integer("steps", 256, "Of the maximisation.", 1)
_SIZE = flags.DEFINE_integer("size", 0, "Of its pictures; 0 is the network's.", 0)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Where the data is, if not where the run found it."
)


def main(_) -> None:
    run = experiment.load_run(_WORKDIR.value, _DATA_DIR.value)
    classes = [explain.class_index(name, run.class_names) for name in _CLASSES.value]
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

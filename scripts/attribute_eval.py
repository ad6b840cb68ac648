r"""Compute metrics of attribution methods on a run's own images.

    python -m scripts.attribute_eval --workdir=runs/inception_seed0 \
        --methods=saliency,grad_cam,finer_cam --limit=200 --out=attribution_eval

For each method, the script computes the grid pointing game (chance is 0.25), deletion,
insertion, ROAD (MoRF, LeRF and both combined) and sparseness. It also randomises the
layers of the network, from the head down to the first layer. It computes the rank
correlation between the maps before and after. It uses only correctly classified images.
OUT gets result.json, table.md and table.png, and the table is printed.

--metrics=pointing_game computes only the pointing game; faithfulness takes about fifty
passes for each image. --metrics=infidelity,sensitivity computes infidelity (32 passes)
and max-sensitivity (ten maps). --metrics=completeness computes the share of the score
that the layers of class activation maps add up to. --metrics=localisation compares maps
with the masks of drawn images. docs/attribution_metrics.md explains the metrics. A grid
has four images at their full size, so it has four times as many pixels; --grid_size=224
shrinks it. --results=results enters the scores into pointing_game.json,
faithfulness.json, completeness.json and localisation.json in that folder.
--layer=mixed7,mixed10 adds up the class activation maps of these layers, and
--layer=head adds up the maps of all layers that the head reads.
--options=grad_cam.align=stretch stretches maps over the image.
"""

from absl import flags

from scripts import console
from seeflower_jax import records
from seeflower_jax.attribution import registry
from seeflower_jax.experiment.images import of_run
from seeflower_jax.explain import score, score_table
from seeflower_jax.inference.run import load_run

_WORKDIR = flags.DEFINE_string("workdir", None, "The run directory.", required=True)
_OUT = flags.DEFINE_string("out", None, "The folder to write to.", required=True)
_METHODS = flags.DEFINE_list(
    "methods", ["saliency", "grad_cam"], f"Any of {', '.join(registry.METHODS)}."
)
_METRICS = flags.DEFINE_list(
    "metrics",
    list(score_table.DEFAULT_METRICS),
    f"Any of {', '.join(score_table.METRICS)}.",
)
_SPLIT = flags.DEFINE_enum(
    "split", "test", ["validation", "test"], "The split of the images."
)
_LIMIT = flags.DEFINE_integer("limit", 200, "Number of images and of grids.", 4)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Images in a batch.", 1)
_LAYER = flags.DEFINE_string("layer", None, "Layers of class activation maps, or head.")
_OPTIONS = flags.DEFINE_list(
    "options",
    [],
    "Options of methods: score_cam.channels=32,grad_cam.align=stretch.",
)
_GRID_SIZE = flags.DEFINE_integer(
    "grid_size", 0, "Side of the grids in pixels; 0 is twice the side of an image.", 0
)
_RESULTS = flags.DEFINE_string("results", None, "Folder of recorded results.")
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder of the images, if it has moved since the training."
)
flags.register_validator("out", lambda path: path != "", "expected a folder")


def main(_: list[str]) -> None:
    run = load_run(_WORKDIR.value, _DATA_DIR.value)
    dataset, split = of_run(run), _SPLIT.value
    masks = dataset.masks(split) if "localisation" in _METRICS.value else None
    table = score.score_methods(
        run,
        dataset.images(split),
        _METHODS.value,
        _OUT.value,
        metrics=_METRICS.value,
        masks=masks,
        limit=_LIMIT.value,
        layer=registry.parse_layer(_LAYER.value),
        options=registry.parse_options(_OPTIONS.value),
        grid_size=_GRID_SIZE.value,
        batch_size=_BATCH_SIZE.value,
        command=records.typed_command(),
        results=_RESULTS.value,
    )
    console.show(records.read_result(_OUT.value), table)


if __name__ == "__main__":
    console.run(main)

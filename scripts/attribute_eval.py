r"""Judges attribution methods on a run's test pictures.

    python -m scripts.attribute_eval --workdir=runs/inception_seed0 \
        --methods=saliency,grad_cam,finer_cam --limit=200 --out=attribution_eval

For each method: the grid pointing game (chance is .25), deletion and insertion, ROAD
(MoRF and LeRF), sparseness, and the rank correlation with the maps of a network whose
layers are randomised from the top down. Only correctly classified pictures count. OUT
gets result.json, table.md and table.png; the table is printed. --results=results enters
the figures into pointing_game.json and faithfulness.json there. --judges=pointing_game
leaves out the rest, which take some fifty passes a picture. A grid has four pictures as
the network takes them, and so four times their pixels; --grid_size=224 shrinks it.
"""

from absl import flags

from scripts import console
from seeflower_jax import experiment, explain, judgement, records
from seeflower_jax.attribution import registry

_WORKDIR = flags.DEFINE_string("workdir", None, "The run directory.", required=True)
_OUT = flags.DEFINE_string("out", None, "The folder to write to.", required=True)
_METHODS = flags.DEFINE_list(
    "methods", ["saliency", "grad_cam"], f"Of {', '.join(registry.METHODS)}."
)
_JUDGES = flags.DEFINE_list(
    "judges", list(judgement.JUDGES), f"Of {', '.join(judgement.JUDGES)}."
)
_SPLIT = flags.DEFINE_enum("split", "test", ["validation", "test"], "Which pictures.")
_LIMIT = flags.DEFINE_integer("limit", 200, "Pictures, and grids of four.", 4)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Pictures at once.", 1)
_LAYER = flags.DEFINE_string("layer", None, "Of class activation maps.")
_OPTIONS = flags.DEFINE_list(
    "options", [], "Of methods: integrated_gradients.steps=8,score_cam.channels=32."
)
_GRID_SIZE = flags.DEFINE_integer(
    "grid_size", 0, "Side of the grids in pixels; 0 is twice that of a picture.", 0
)
_RESULTS = flags.DEFINE_string("results", None, "Folder of recorded results.")
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Where the data is, if not where the run found it."
)


def main(_) -> None:
    run = experiment.load_run(_WORKDIR.value, _DATA_DIR.value)
    pictures = explain.split_pictures(run, _SPLIT.value)
    table = judgement.judge_methods(
        run,
        pictures,
        _METHODS.value,
        _OUT.value,
        judges=_JUDGES.value,
        limit=_LIMIT.value,
        layer=_LAYER.value,
        options=registry.parse_options(_OPTIONS.value),
        grid_size=_GRID_SIZE.value,
        batch_size=_BATCH_SIZE.value,
        command=records.typed_command(),
        results=_RESULTS.value,
    )
    console.show(records.read_result(_OUT.value), table)


if __name__ == "__main__":
    console.run(main)

"""What transfer gains and what the network looks at, shown on drawn flowers.

    result = experiment.train(config, workdir)
    summary = show(config, workdir)      # config.quickstart says how

This module connects the rooms, as `experiment` does for training.
"""

import json
import math
import os
import pathlib

import numpy as np
from PIL import Image

from seeflower_jax import data, experiment, explain, maximisation, records
from seeflower_jax.attribution import localisation
from seeflower_jax.attribution.store import MapStore
from seeflower_jax.data.cache import center_view


def show(config, workdir: str | os.PathLike, command: str = "") -> dict:
    """Compares a finished run with one from scratch; explains its test pictures.

    Writes `from_scratch/`, a run directory, `attributions/`, `activation_max/` and
    `quickstart.json` into the run directory. What is there is not made again.

    Args:
      config: of the run, on the source `synthetic`. Of `config.quickstart`, `scratch`
        has what the run from random parameters has otherwise, `methods` are of
        attribution, `maximise_steps` those of activation maximisation.
      workdir: the run directory.
      command: what was typed, for the record.

    Returns:
      The content of `quickstart.json`: `transfer` and `from_scratch` with test top-1,
      its standard error and seconds of training; `gain`, their difference; in
      `pointing_game` the share of pictures in which a method's largest value lies on
      the flower, beside what chance gives; in `activation_max` how many of the pictures
      made for a class the network recognises.
    """
    workdir = pathlib.Path(workdir).expanduser()
    path = workdir / "quickstart.json"
    if path.exists():
        return json.loads(path.read_text())
    wanted = config.quickstart
    transfer = json.loads((workdir / "result.json").read_text())
    scratch = experiment.train(
        experiment.derive(config, wanted.scratch), workdir / "from_scratch", command
    )
    run = experiment.load_run(workdir)
    out = workdir / "attributions"
    explain.attribute(run, _in_turn(run), wanted.methods, out)
    maximised = maximisation.maximise_classes(
        run,
        workdir / "activation_max",
        steps=wanted.maximise_steps,
        command=command,
    )
    summary = {
        "transfer": _accuracy(transfer),
        "from_scratch": _accuracy(scratch),
        "gain": transfer["test"]["top1"] - scratch["test"]["top1"],
        "test_pictures": transfer["test"]["count"],
        "pointing_game": _pointing_game(run, out),
        "activation_max": {
            "classes": maximised["classes"],
            "recognised": maximised["recognised"][run.spec.name],
        },
    }
    records.write_json(path, summary)
    return summary


def sentences(summary: dict) -> str:
    """What `show` found, for a terminal."""
    chance, *scores = [f"{k} {v:.3f}" for k, v in summary["pointing_game"].items()]
    maximised = summary["activation_max"]
    return (
        f"test top-1 from random parameters: {summary['from_scratch']['top1']:.4f}\n"
        f"maps that point at the flower: {', '.join(scores)}; {chance}\n"
        f"pictures made for a class and recognised: {maximised['recognised']} of "
        f"{maximised['classes']}"
    )


def _accuracy(result: dict) -> dict:
    """Test top-1 of a run with its standard error, and what it took to train."""
    top1, count = result["test"]["top1"], result["test"]["count"]
    seconds = sum(s for k, s in result["seconds"].items() if k != "evaluation")
    return {
        "top1": top1,
        "standard_error": math.sqrt(top1 * (1 - top1) / count),
        "seconds": round(seconds, 1),
    }


def _in_turn(run: experiment.Run) -> explain.PictureList:
    """The test pictures, one of each class after the other, for the contact sheets."""
    pictures = explain.split_pictures(run, "test")
    seen, turns = {}, []
    for position, label in enumerate(pictures.labels):
        seen[label] = seen.get(label, 0) + 1
        turns.append((seen[label], label, position))
    order = [position for _, _, position in sorted(turns)]
    return explain.PictureList(
        [pictures.names[i] for i in order],
        [pictures.labels[i] for i in order],
        lambda position: pictures.read(order[position]),
        lambda position: pictures.size(order[position]),
    )


def _pointing_game(run: experiment.Run, folder: pathlib.Path) -> dict[str, float]:
    """{method: share of its maps that point at the flower}, with that of chance."""
    source, store = data.load(run.config.data), MapStore.open(folder)
    index = {key: i for i, key in enumerate(source.keys)}
    hits, shares = {}, []
    for line in store.lines():
        values = store.read(line).astype(np.float32)
        mask = Image.fromarray(255 * source.mask(index[line["image"]]).astype(np.uint8))
        mask = center_view(mask, len(values), run.config.eval.crop) > 127
        hit = localisation.pointing_game(values[None], mask[None])
        hits.setdefault(line["method"], []).append(hit[0])
        shares.append(mask.mean())
    scores = {"chance": np.mean(shares)} | {k: np.mean(v) for k, v in hits.items()}
    return {name: float(score) for name, score in scores.items()}

"""Show on drawn flowers what transfer gains and what the network looks at.

result = train(config, workdir)
summary = show(config, workdir)      # as config.quickstart says
print(sentences(summary))
"""

import logging
import math
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from seeflower_jax import records
from seeflower_jax.attribution import registry
from seeflower_jax.attribution.metrics import localisation
from seeflower_jax.data.dataset import Dataset
from seeflower_jax.data.images import Images
from seeflower_jax.data.view import View
from seeflower_jax.experiment import images as run_images
from seeflower_jax.experiment.network_checks import check_network
from seeflower_jax.experiment.settings import derive, read_settings
from seeflower_jax.experiment.train import train
from seeflower_jax.explain.attribute import attribute
from seeflower_jax.explain.masks import seen_masks
from seeflower_jax.explain.maximise import maximise_classes
from seeflower_jax.explain.store import MapStore
from seeflower_jax.inference.run import load_run


def check(config: Mapping) -> None:
    """Check the section `quickstart` of a config before anything is trained.

    Raises:
      ValueError: if a value makes no sense; the message names the key.
    """
    options = records.to_dict(config).get("quickstart", {})
    keys = {"scratch", "methods", "maximise_steps"}
    if options.keys() != keys:
        raise ValueError(
            f"config.quickstart has the keys {sorted(options)}; expected {sorted(keys)}"
        )
    try:
        check_network(read_settings(derive(config, options["scratch"])))
        registry.check_methods(list(options["methods"]))
    except ValueError as error:
        raise ValueError(f"config.quickstart: {error}") from error
    steps = options["maximise_steps"]
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(
            f"config.quickstart.maximise_steps is {steps!r}; expected a whole number, "
            "1 or more"
        )


def show(config: Mapping, workdir: str | os.PathLike, command: str = "") -> dict:
    """Compare a finished run with training from scratch, and explain its test images.

    The run directory gets `from_scratch/` (a run directory), `attributions/`,
    `activation_max/` and `quickstart.json`. What exists already is not made again,
    unless the config of the run has changed.

    Args:
      config: of the run, on the source `synthetic`. Its section `quickstart` has
        `scratch`, the values in which the run from random parameters differs;
        `methods` of attribution; and `maximise_steps`, of activation maximisation.
      workdir: the run directory.
      command: what was typed, for the record.

    Returns:
      The content of `quickstart.json`.
      config_hash: the hash of the config of the run.
      transfer, from_scratch: test top-1, its standard error, seconds of training.
      gain: the difference of both accuracies.
      test_pictures: the number of test images.
      pointing_game: for each method, the share of images in which the map's maximum
        lies on the flower; also the share that chance gives.
      activation_max: the number of images made for a class, and how many of them the
        network recognises.
    """
    workdir = pathlib.Path(workdir).expanduser()
    path, out = workdir / "quickstart.json", workdir / "attributions"
    transfer = records.read_result(workdir)
    if path.exists():
        try:
            summary = records.read_json(path, "it is computed again")
        except records.DamagedFileError as error:
            logging.warning("%s", error)
        else:
            if summary.get("config_hash") == transfer["config_hash"]:
                return summary
            shutil.rmtree(out, ignore_errors=True)  # may be maps of other variables
    options = records.to_dict(config)["quickstart"]
    scratch = train(
        derive(config, options["scratch"]), workdir / "from_scratch", command
    )
    run = load_run(workdir)
    dataset = run_images.of_run(run)
    methods = list(options["methods"])
    # The last block shows best where the flower is. Grad-CAMs of all blocks that the
    # head reads point at 85 % of the flowers, those of the last block at 92 %.
    layer = run.network.spec.cam_layer
    images = _by_turns(dataset.images("test"))
    attribute(run.network, images, methods, out, layer=layer)
    maximised = maximise_classes(
        run,
        workdir / "activation_max",
        steps=options["maximise_steps"],
        command=command,
    )
    summary = {
        "config_hash": transfer["config_hash"],
        "transfer": _accuracy(transfer),
        "from_scratch": _accuracy(scratch),
        "gain": transfer["test"]["top1"] - scratch["test"]["top1"],
        "test_pictures": transfer["test"]["count"],
        "pointing_game": _pointing_game(dataset, run.network.view, out, methods),
        "activation_max": {
            "classes": maximised["classes"],
            "recognised": maximised["recognised"][run.network.spec.name],
        },
    }
    records.write_json(path, summary)
    return summary


def sentences(summary: Mapping) -> str:
    """Format what `show` returns for a terminal."""
    chance, *scores = [f"{k} {v:.3f}" for k, v in summary["pointing_game"].items()]
    maximised = summary["activation_max"]
    return (
        f"test top-1 from scratch: {summary['from_scratch']['top1']:.4f}\n"
        f"maps whose maximum is on the flower: {', '.join(scores)}; {chance}\n"
        f"images made for a class and recognised: {maximised['recognised']} of "
        f"{maximised['classes']}"
    )


def _accuracy(result: Mapping) -> dict[str, float]:
    """Return test top-1 with its standard error, and the seconds of training."""
    top1, count = result["test"]["top1"], result["test"]["count"]
    return {
        "top1": top1,
        "standard_error": math.sqrt(top1 * (1 - top1) / count),
        "seconds": round(records.training_seconds(result), 1),
    }


def _by_turns(images: Images) -> Images:
    """Return images so that the classes take turns, for the contact sheets."""
    count_by_label: dict[int | None, int] = {}
    turns = []
    for label in images.labels:
        count_by_label[label] = count_by_label.get(label, 0) + 1
        turns.append(count_by_label[label])
    order = sorted(range(len(images)), key=lambda i: (turns[i], images.labels[i]))
    return images[order]


def _pointing_game(
    dataset: Dataset, view: View, folder: pathlib.Path, methods: Sequence[str]
) -> dict[str, float]:
    """Return the share of each method's maps that point at the flower, and of chance.

    Args:
      dataset: of the run.
      view: what the network sees of an image.
      folder: the maps, of `attribute`.
      methods: of the maps.
    """
    names, mask = dataset.images("test").names, dataset.masks("test")
    seen = seen_masks([mask(position) for position in range(len(names))], view)
    masks, store = dict(zip(names, seen, strict=True)), MapStore.open(folder)
    hits: dict[str, list[float]] = {method: [] for method in methods}
    shares = []
    for line in store.lines():
        values = jnp.asarray(store.read(line), jnp.float32)
        object_mask = masks[line["image"]][None]
        (hit,) = localisation.pointing_game(values[None], jnp.asarray(object_mask))
        hits[line["method"]].append(float(hit))
        shares.append(object_mask.mean())
    scores = {"chance": np.mean(shares)} | {k: np.mean(v) for k, v in hits.items()}
    return {name: float(score) for name, score in scores.items()}

"""How good attribution methods are for a run's network, on its own pictures.

    table = judge_methods(run, explain.split_pictures(run, "test"), ["grad_cam"], "out")

This module connects the rooms, as `experiment` does for training.
"""

import os
import pathlib
import re
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from seeflower_jax import experiment, explain, models
from seeflower_jax.attribution import batch, faithfulness, localisation
from seeflower_jax.report import attribution as figures

COLUMNS = {
    "pointing_game": "pointing game",
    "deletion": "deletion",
    "insertion": "insertion",
    "road_morf": "ROAD MoRF",
    "road_lerf": "ROAD LeRF",
    "sparseness": "sparseness",
    "randomisation": "randomisation",
}
_BETTER = {"pointing_game": "↑", "deletion": "↓", "insertion": "↑", "road_morf": "↓"}
_BETTER |= {"road_lerf": "↑", "randomisation": "↓"}


def layer_groups(params: dict) -> list[list[str]]:
    """Names of a network's parameters by block, the head first, the input last."""
    blocks = {}
    for name in params["backbone"]:
        match = re.match(r"(mixed|block)(\d+)", name)
        number = int(match[2]) if match else -1
        blocks.setdefault(number, []).append(f"backbone/{name}")
    return [["head"], *(blocks[number] for number in sorted(blocks, reverse=True))]


def _correct(run, pictures, limit, layer, batch_size):
    """Positions of up to `limit` random pictures that the network gets right."""
    explainer = explain.make_explainer(run, ["hires_cam"], layer, batch_size)
    order = np.random.default_rng(run.config.seed).permutation(len(pictures))
    found = []
    with tqdm.tqdm(total=limit, desc="choosing", unit="image") as bar:
        for first in range(0, len(order), batch_size):
            part = order[first : first + batch_size]
            labels = np.array([pictures.labels[i] for i in part])
            pixels = [pictures.read(i) for i in part]
            _, logits, _, _ = explainer(part, pixels, labels)
            right = part[logits.argmax(-1) == labels].tolist()
            bar.update(min(len(right), limit - len(found)))
            found += right
            if len(found) >= limit:
                break
    return found[:limit]


def draw_grids(labels: Sequence[int], count: int, seed: int) -> np.ndarray:
    """Rows of four pictures of four classes, int [count, 4]; positions in `labels`.

    Raises:
      ValueError: if there are fewer than four classes.
    """
    labels = np.asarray(labels)
    if len(set(labels.tolist())) < 4:
        raise ValueError("grids take correctly classified pictures of four classes")
    rng, rows = np.random.default_rng(seed), []
    while len(rows) < count:
        row = rng.choice(len(labels), 4, replace=False)
        if len(set(labels[row].tolist())) == 4:
            rows.append(row)
    return np.array(rows)


class _Judge:
    """The compiled functions of one network."""

    def __init__(self, run, methods, layer, batch_size):
        self._run = run
        self._preprocess = run.preprocess
        self.explain = explain.make_explainer(run, methods, layer, batch_size)
        self._maps = batch.make_explainer(
            run.spec, methods, layer, self._preprocess, run.size
        )
        self._faithfulness = jax.jit(self._judge)

    def keys(self, count):
        return jax.random.split(jax.random.key(self._run.config.seed), count)

    def _judge(self, variables, images, maps, labels):
        network = models.bind(self._run.spec, variables, self._preprocess)
        most, least = faithfulness.road(network, images, maps, labels)
        return {
            "deletion": faithfulness.deletion(network, images, maps, labels).mean(0),
            "insertion": faithfulness.insertion(network, images, maps, labels).mean(0),
            "road_morf": most.mean(0),
            "road_lerf": least.mean(0),
            "sparseness": faithfulness.sparseness(maps),
        }

    def faithfulness(self, images, maps, labels):
        """Figures per picture, of a full batch."""
        return jax.device_get(
            self._faithfulness(self._run.variables, images, maps, labels)
        )

    def randomised(self, images, maps, labels) -> dict[str, np.ndarray]:
        """{method: rank correlation [levels]} with maps of randomised networks."""
        key, levels = jax.random.key(self._run.config.seed), {name: [] for name in maps}
        groups = layer_groups(self._run.variables["params"])
        for variables in faithfulness.randomised(self._run.variables, groups, key):
            _, _, other = self._maps(variables, images, labels, self.keys(len(images)))
            for name, values in other.items():
                correlation = faithfulness.rank_correlation(maps[name], values)
                levels[name].append(float(np.nanmean(correlation)))
        return levels

    def grids(self, images, labels, cells) -> dict[str, np.ndarray]:
        """{method: share in the target's cell [N]} of grids of pictures [N, 4, ...]."""
        grids = localisation.grid_pictures(images)
        if self._run.spec.pooling == "flatten":  # this head takes one size alone
            grids = jax.image.resize(
                grids, (len(grids), *images.shape[2:4], 3), "bilinear"
            )
        own = jnp.take_along_axis(labels, cells[:, None], -1)[:, 0]
        _, _, maps = self._maps(self._run.variables, grids, own, self.keys(len(grids)))
        return {
            name: np.asarray(localisation.grid_pointing(values, cells))
            for name, values in maps.items()
        }


def judge_methods(
    run: experiment.Run,
    pictures: explain.PictureList,
    methods: Sequence[str],
    out: str | os.PathLike,
    *,
    limit: int = 200,
    layer: str | None = None,
    batch_size: int = 8,
    command: str = "",
    results: str | os.PathLike | None = None,
) -> str:
    """Judges methods; writes result.json, table.md and table.png.

    Args:
      run: whose network and pictures are used.
      pictures: with known labels.
      methods: keys of `batch.METHODS`.
      out: the folder.
      limit: number of pictures, all correctly classified, and of grids. The
        randomisation check takes the first batch alone.
      layer: of class activation maps; that of `batch.map_layer` by default.
      batch_size: pictures at once.
      command: what was typed, for the record.
      results: a folder whose pointing_game.json and faithfulness.json get the figures.

    Returns:
      The table, in Markdown.

    Raises:
      ValueError: for unknown methods and layers, and if too little is classified
        correctly.
    """
    out = pathlib.Path(out).expanduser()
    layer = layer or batch.map_layer(run.spec, run.size)
    judge = _Judge(run, methods, layer, batch_size)
    chosen = _correct(run, pictures, limit, layer, batch_size)
    labels = np.array([pictures.labels[i] for i in chosen], np.int32)
    grids = draw_grids(labels, limit, run.config.seed)
    figures_of = {name: {key: [] for key in COLUMNS} for name in methods}
    images, levels = [], None
    with tqdm.tqdm(total=len(chosen), desc="faithfulness", unit="image") as bar:
        for first in range(0, len(chosen), batch_size):
            part = chosen[first : first + batch_size]
            pixels = [pictures.read(i) for i in part]
            own = labels[first : first + batch_size]
            cropped, _, _, maps = judge.explain(part, pixels, own)
            images.append(cropped.astype(np.float16))
            fill = np.resize(np.arange(len(part)), batch_size)
            for name, values in maps.items():
                found = judge.faithfulness(cropped[fill], values[fill], own[fill])
                for key, rows in found.items():
                    figures_of[name][key] += rows[: len(part)].tolist()
            if levels is None:
                levels = judge.randomised(cropped[fill], _take(maps, fill), own[fill])
            bar.update(len(part))
    images = np.concatenate(images)
    quarter = max(1, batch_size // 4)  # a grid has the pixels of four pictures
    with tqdm.tqdm(total=len(grids), desc="pointing game", unit="grid") as bar:
        for first in range(0, len(grids), quarter):
            rows = np.arange(first, first + quarter) % len(grids)
            cells = jnp.array(rows % 4)
            taken = jnp.array(images[grids[rows]], jnp.float32)
            found = judge.grids(taken, jnp.array(labels[grids[rows]]), cells)
            kept = min(quarter, len(grids) - first)
            for name, values in found.items():
                figures_of[name]["pointing_game"] += values[:kept].tolist()
            bar.update(kept)
    for name in methods:
        figures_of[name]["randomisation"] = levels[name]
    means = {
        name: {key: round(float(np.mean(values)), 4) for key, values in own.items()}
        for name, own in figures_of.items()
    }
    counts = {"pictures": len(chosen), "grids": len(grids)}
    return _write(out, run, means, levels, counts, layer, command, results)


def _take(maps: dict, rows: np.ndarray) -> dict:
    return {name: values[rows] for name, values in maps.items()}


def _record(folder: pathlib.Path, run, result: dict) -> None:
    """Enters a judgement into pointing_game.json and faithfulness.json."""
    ran = {"run": experiment.config_hash(run.config), "layer": result["layer"]}
    ran |= {key: result[key] for key in ("command", "git_commit", "versions", "device")}
    for name, own in result["methods"].items():
        own = dict(own)
        pointing = {"score": own.pop("pointing_game"), "grids": result["grids"]}
        faithful = own | {"pictures": result["pictures"]}
        for file, entry in (("pointing_game", pointing), ("faithfulness", faithful)):
            path = folder / f"{file}.json"
            experiment.record(path, run.spec.name, name, entry | ran)


def _write(out, run, means, levels, counts, layer, command, results) -> str:
    """Writes the three files; returns the table."""
    out.mkdir(parents=True, exist_ok=True)
    result = {
        "model": run.spec.name,
        "layer": layer,
        **counts,
        "chance": {"pointing_game": 0.25},
        "methods": means,
        "randomisation_by_level": levels,
        **experiment.provenance(command),
    }
    experiment.write_json(out / "result.json", result)
    if results is not None:
        _record(pathlib.Path(results), run, result)
    header = ["method"] + [f"{t} {_BETTER.get(k, '')}" for k, t in COLUMNS.items()]
    rows = [[name, *(f"{own[k]:.3f}" for k in COLUMNS)] for name, own in means.items()]
    lines = [header, ["---"] * len(header), *rows]
    table = "\n".join(f"| {' | '.join(map(str.strip, line))} |" for line in lines)
    (out / "table.md").write_text(table + "\n")
    figures.write_table(out / "table.png", header, rows)
    return table

"""How good attribution methods are for a run's network, on its own pictures.

    table = judge_methods(run, explain.split_pictures(run, "test"), ["grad_cam"], "out")

This module connects the rooms, as `experiment` does for training.
"""

import os
import pathlib
import re
from collections.abc import Mapping, Sequence

import jax
import numpy as np
import tqdm

from seeflower_jax import experiment, explain, hints, models, records
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
# What can be asked for, and the columns that it fills.
JUDGES = {"pointing_game": ["pointing_game"], "faithfulness": list(COLUMNS)[1:]}
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
    """Up to `limit` random pictures that the network gets right.

    Returns:
      Cropped images float16 [N, size, size, 3] and their labels int32 [N].
    """
    explainer = explain.make_explainer(run, ["hires_cam"], layer, batch_size)
    order = np.random.default_rng(run.config.seed).permutation(len(pictures))
    found, images = [], []
    with tqdm.tqdm(total=limit, desc="choosing", unit="image") as bar:
        for first in range(0, len(order), batch_size):
            part = order[first : first + batch_size]
            labels = np.array([pictures.labels[i] for i in part])
            pixels = [pictures.read(i) for i in part]
            cropped, logits, _, _ = explainer(part, pixels, labels)
            right = logits.argmax(-1) == labels
            bar.update(min(right.sum(), limit - len(found)))
            found += labels[right].tolist()
            images.append(cropped[right].astype(np.float16))
            if len(found) >= limit:
                break
    return np.concatenate(images)[:limit], np.array(found[:limit], np.int32)


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

    def __init__(self, run, methods, layer, options, grid_size):
        self._run = run
        # A head of flattened features takes one size alone.
        flat = run.spec.pooling == "flatten"
        self.grid_size = run.size if flat else grid_size or 2 * run.size
        self._preprocess = run.preprocess
        self._maps = batch.make_explainer(
            run.spec,
            methods,
            layer,
            self._preprocess,
            min(run.size, self.grid_size),
            options,
        )
        self._faithfulness = jax.jit(self._judge)

    def maps(self, images, labels, variables=None) -> dict[str, np.ndarray]:
        """{method: maps [N, H, W]} of images [N, H, W, 3]."""
        variables = variables or self._run.variables
        keys = jax.random.split(jax.random.key(self._run.config.seed), len(images))
        return jax.device_get(self._maps(variables, images, labels, keys)[2])

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
            other = self.maps(images, labels, variables)
            for name, values in other.items():
                correlation = faithfulness.rank_correlation(maps[name], values)
                levels[name].append(float(np.nanmean(correlation)))
        return levels

    def grids(self, images, labels, cells) -> dict[str, np.ndarray]:
        """{method: share in the target's cell [N]} of grids of pictures [N, 4, ...]."""
        grids = localisation.grid_images(images)
        side = self.grid_size
        grids = jax.image.resize(grids, (len(grids), side, side, 3), "bilinear")
        own = np.take_along_axis(labels, cells[:, None], -1)[:, 0]
        return {
            name: np.asarray(localisation.grid_pointing(values, cells))
            for name, values in self.maps(grids, own).items()
        }


def judge_methods(
    run: experiment.Run,
    pictures: explain.PictureList,
    methods: Sequence[str],
    out: str | os.PathLike,
    *,
    judges: Sequence[str] = tuple(JUDGES),
    limit: int = 200,
    layer: str | None = None,
    options: Mapping[str, Mapping] | None = None,
    grid_size: int = 0,
    batch_size: int = 8,
    command: str = "",
    results: str | os.PathLike | None = None,
) -> str:
    """Judges methods; writes result.json, table.md and table.png.

    Args:
      run: whose network and pictures are used.
      pictures: with known labels.
      methods: keys of `registry.METHODS`.
      out: the folder.
      judges: keys of `JUDGES`.
      limit: number of pictures, all correctly classified, and of grids. The
        randomisation check takes the first batch alone.
      layer: of class activation maps; that of `batch.map_layer` by default.
      options: of methods, as of `batch.make_explainer`.
      grid_size: side of the grids in pixels, even; 0 is twice that of a picture.
      batch_size: pictures at once.
      command: what was typed, for the record.
      results: a folder whose pointing_game.json and faithfulness.json get the figures.

    Returns:
      The table, in Markdown.

    Raises:
      ValueError: for unknown judges, methods and layers, and if too little is
        classified correctly.
    """
    if not judges:
        raise ValueError(f"no judge given; known are {', '.join(JUDGES)}")
    for name in judges:
        if name not in JUDGES:
            raise ValueError(
                f"unknown judge {name!r}: known are {', '.join(JUDGES)}"
                f"{hints.did_you_mean(name, JUDGES)}"
            )
    out = pathlib.Path(out).expanduser()
    layer = layer or batch.map_layer(run.spec, run.size)
    if grid_size % 2:
        raise ValueError(
            f"a grid of {grid_size} pixels has no halves; give an even one"
        )
    judge = _Judge(run, methods, layer, options, grid_size)
    images, labels = _correct(run, pictures, limit, layer, batch_size)
    if not len(labels):
        raise ValueError(
            "no picture is classified correctly: there is none to judge by"
        )
    found = {"layer": layer, "pictures": len(labels)}
    found["options"] = {name: dict(own) for name, own in (options or {}).items()}
    figures_of = {name: {} for name in methods}
    if "pointing_game" in judges:
        grids = draw_grids(labels, limit, run.config.seed)
        scores = _pointing_game(judge, images, labels, grids, batch_size)
        found |= {"grids": len(grids), "grid_size": judge.grid_size}
        found["chance"] = {"pointing_game": 0.25}
        for name, values in scores.items():
            figures_of[name]["pointing_game"] = values
    if "faithfulness" in judges:
        rows, levels = _faithfulness(judge, images, labels, batch_size)
        found["randomisation_by_level"] = levels
        for name, values in rows.items():
            figures_of[name] |= values | {"randomisation": levels[name]}
    found["methods"] = {
        name: {key: round(float(np.mean(values)), 4) for key, values in own.items()}
        for name, own in figures_of.items()
    }
    return _write(out, run, found, command, results)


def _pointing_game(judge, images, labels, grids, batch_size) -> dict[str, list]:
    """{method: scores of the grids}; a grid has the pixels of four pictures."""
    scores, quarter = {}, max(1, batch_size // 4)
    with tqdm.tqdm(total=len(grids), desc="pointing game", unit="grid") as bar:
        for first in range(0, len(grids), quarter):
            rows = np.arange(first, first + quarter) % len(grids)
            own = grids[rows]
            found = judge.grids(images[own].astype(np.float32), labels[own], rows % 4)
            kept = min(quarter, len(grids) - first)
            for name, values in found.items():
                scores.setdefault(name, []).extend(values[:kept].tolist())
            bar.update(kept)
    return scores


def _faithfulness(judge, images, labels, batch_size) -> tuple[dict, dict]:
    """{method: {column: figures of the pictures}} and {method: [levels]}."""
    figures_of, levels = {}, None
    with tqdm.tqdm(total=len(images), desc="faithfulness", unit="image") as bar:
        for first in range(0, len(images), batch_size):
            rows = np.arange(first, min(first + batch_size, len(images)))
            fill = np.resize(rows, batch_size)  # repeats, to be cut off
            shown, own = images[fill].astype(np.float32), labels[fill]
            maps = judge.maps(shown, own)
            for name, values in maps.items():
                columns = figures_of.setdefault(name, {})
                for key, found in judge.faithfulness(shown, values, own).items():
                    columns.setdefault(key, []).extend(found[: len(rows)].tolist())
            if levels is None:
                levels = judge.randomised(shown, maps, own)
            bar.update(len(rows))
    return figures_of, levels


def _record(folder: pathlib.Path, run, result: dict) -> None:
    """Enters a judgement into pointing_game.json and faithfulness.json."""
    ran = {"run": records.config_hash(run.config), "layer": result["layer"]}
    ran |= {key: result[key] for key in ("command", "git_commit", "versions", "device")}
    for name, own in result["methods"].items():
        entries, own = {}, dict(own)
        if "pointing_game" in own:
            score = own.pop("pointing_game")
            entries["pointing_game"] = {
                "score": score,
                "grids": result["grids"],
                "grid_size": result["grid_size"],
            }
        if own:
            entries["faithfulness"] = own | {"pictures": result["pictures"]}
        ran["options"] = result["options"].get(name, {})
        for file, entry in entries.items():
            path = folder / f"{file}.json"
            records.record(path, run.spec.name, name, entry | ran)


def _write(out, run, found, command, results) -> str:
    """Writes the three files; returns the table."""
    out.mkdir(parents=True, exist_ok=True)
    result = {"model": run.spec.name, **found, **records.provenance(command)}
    records.write_json(out / "result.json", result)
    if results is not None:
        _record(pathlib.Path(results), run, result)
    methods = result["methods"]
    columns = [key for key in COLUMNS if key in next(iter(methods.values()))]
    header = ["method"] + [f"{COLUMNS[k]} {_BETTER.get(k, '')}" for k in columns]
    rows = [
        [name, *(f"{own[k]:.3f}" for k in columns)] for name, own in methods.items()
    ]
    lines = [header, ["---"] * len(header), *rows]
    table = "\n".join(f"| {' | '.join(map(str.strip, line))} |" for line in lines)
    (out / "table.md").write_text(table + "\n")
    figures.write_table(out / "table.png", header, rows)
    return table

"""The metrics of attribution methods by group, their table and their records.

    table = write(folder, result)             # result.json, table.md and table.png
    record(results, run, result, is_default_layer=True)

`explain.score` computes the result.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

from seeflower_jax import records
from seeflower_jax.attribution import registry
from seeflower_jax.figures import maps as figures
from seeflower_jax.inference.run import Run

# {group of metrics: {column: its heading}}
METRICS = {
    "pointing_game": {"pointing_game": "pointing game ↑"},
    "faithfulness": {
        "deletion": "deletion ↓",
        "insertion": "insertion ↑",
        "road_morf": "ROAD MoRF ↓",
        "road_lerf": "ROAD LeRF ↑",
        "road_combined": "ROAD combined ↑",
        "sparseness": "sparseness",
        "randomisation": "randomisation ↓",
    },
    "infidelity": {"infidelity": "infidelity ↓"},
    "sensitivity": {"max_sensitivity": "max-sensitivity ↓"},
    "completeness": {
        "completeness": "completeness",
        "completeness_error": "completeness error ↓",
    },
    "localisation": {
        "pointing_hit": "pointing hit ↑",
        "energy_in_mask": "energy in mask ↑",
        "energy_in_box": "energy in box ↑",
        "mask_iou": "mask IoU ↑",
        "box_iou": "box IoU ↑",
    },
}
_OWN_FILE = ("pointing_game", "completeness", "localisation")
DEFAULT_METRICS = ("pointing_game", "faithfulness")
# {column: name of the file that records it}
_FILES = {
    column: group if group in _OWN_FILE else "faithfulness"
    for group, columns in METRICS.items()
    for column in columns
}
COLUMNS = {column: text for group in METRICS.values() for column, text in group.items()}

# The values of a record that decide the maps and its other metrics.
_SAME_MAPS = (
    *("run", "variables", "layer", "images", "pictures", "options"),
    *("git_commit", "versions", "device"),
)


def record(
    folder: pathlib.Path, run: Run, result: Mapping[str, Any], is_default_layer: bool
) -> None:
    """Write scores to the files of the metrics, by network and row.

    Metrics that an earlier call computed for the same maps are kept.

    The name of a row is the method, with the layer and the alignment unless they are
    the defaults: "grad_cam", "grad_cam, layer=mixed7, align=stretch".
    """
    common = {
        "run": records.config_hash(run.config),
        "variables": records.variables_hash(run.network.variables),
    }
    copied = ("layer", "images", "command", "git_commit", "versions", "device")
    common |= {key: result[key] for key in copied}
    for name, columns in result["methods"].items():
        options = {"options": result["options"].get(name, {})}
        row = [name]
        if registry.METHODS[name].layered and not is_default_layer:
            row.append(f"layer={result['layer']}")
        row += [f"{k}={v}" for k, v in options["options"].items() if k == "align"]
        for file, entry in _by_file(columns, result).items():
            path = folder / f"{file}.json"
            entry |= common | options
            records.add_entry(path, result["model"], ", ".join(row), entry, _SAME_MAPS)


def _by_file(
    columns: Mapping[str, float], result: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Return {name of a file: metrics of a method, and what they were computed on}."""
    values: dict[str, dict[str, Any]] = {}
    for key, value in columns.items():
        values.setdefault(_FILES[key], {})[key] = value
    for file, entry in values.items():
        if file == "pointing_game":
            entry["score"] = entry.pop("pointing_game")
            entry |= {key: result[key] for key in ("grids", "grid_size")}
            continue
        if file == "localisation":
            entry["chance"] = result["chance"]["localisation"]
        entry["pictures"] = result["pictures"]
    return values


def write(out: pathlib.Path, result: Mapping[str, Any]) -> str:
    """Write result.json, table.md and table.png; return the table."""
    out.mkdir(parents=True, exist_ok=True)
    records.write_json(out / "result.json", result)
    scores = result["methods"]
    columns = [key for key in COLUMNS if any(key in v for v in scores.values())]
    header = ["method", *(COLUMNS[key] for key in columns)]
    rows = [
        [name, *(_format(values[key]) if key in values else "" for key in columns)]
        for name, values in scores.items()
    ]
    lines = [header, ["---"] * len(header), *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    with records.replacing(out / "table.md") as partial:
        partial.write_text(table + "\n", encoding="utf-8")
    figures.write_table(out / "table.png", header, rows)
    return table


def _format(value: float) -> str:
    """Return a value of the table; infidelities may be tiny."""
    return f"{value:.3f}" if abs(value) >= 5e-4 or value == 0 else f"{value:.1e}"

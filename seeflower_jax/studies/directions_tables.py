"""Format what was measured of the directions that the paper's conclusion proposes.

    text = directions_section(directions.load_rows(folder), results, outside)

The directions are segmentation, an ensemble of parts, and outside data. Ensembles of
whole networks are listed with them.
"""

from collections.abc import Iterable, Mapping

from seeflower_jax.studies.rows import NAMES
from seeflower_jax.studies.tables import group, markdown, share, spread, weights


def directions_section(
    directions: Mapping, results: Iterable[Mapping], outside: Mapping
) -> str:
    """Format the recorded results of the paper's directions.

    Args:
      directions: content from `directions.load_rows`; {} if there is none.
      results: contents of `result.json`; all but ensembles are left out.
      outside: content from `outside_data.load`; {} if there is none.

    Returns:
      A section of Markdown from level 2; '' if nothing was measured.
    """
    parts = [
        _crops(directions) if directions else "",
        _ensembles(results),
        _outside_data(outside) if outside else "",
    ]
    measured = [part for part in parts if part]
    title = "## The paper's directions\n"
    return "\n".join([title, *measured]) if measured else ""


def _crops(measured: Mapping) -> str:
    """Format the results of heads that read crops of objects and parts."""
    lines = [
        [
            name,
            share(row.get("validation", {}).get("top1")),
            share(row.get("test", {}).get("top1")),
            share(row.get("test", {}).get("mean_class_top1")),
        ]
        for name, row in measured["rows"].items()
    ]
    header = ("what the head reads", "validation top-1", "test top-1", "mean class")
    model = measured["model"]
    tested = any("test" in row for row in measured["rows"].values())
    selected = "Validation selected the variant that was evaluated on the test split."
    return (
        "### Segmentation and parts\n\nA linear head in closed form on features of "
        f"{NAMES.get(model, model)} with {weights(measured)} weights, which was not "
        "trained on the images. Objects and parts are found without labels in the "
        f"features of `{measured['layer']}`. "
        + (selected if tested else "The test split was not used.")
        + " `results/directions.json` has the command of each result.\n\n"
        + markdown(header, lines)
    )


def _ensembles(results: Iterable[Mapping]) -> str:
    """Format the results of several networks; '' if there is none."""
    lines = [
        [
            members.split,
            members.label,
            spread(validation) if validation else "none",
            spread(members.values("test", "top1")),
            spread(members.values("test", "mean_class_top1")),
        ]
        for members in group(results)
        if members.model == "ensemble"
        for validation in [members.values("validation", "top1")]
    ]
    if not lines:
        return ""
    header = ("split", "recipe", "validation top-1", "test top-1", "mean class")
    return (
        "### Ensembles\n\nA recipe names the recipes of the networks. With "
        "`joint_head`, one linear head in closed form reads the features of all "
        "networks. The other ensembles average calibrated probabilities.\n\n"
        + markdown(header, lines)
    )


def _outside_data(measured: Mapping) -> str:
    """Format the results of pretraining on drawn flowers of other species."""
    seeds = ", ".join(map(str, measured["seeds"]))
    lines = [
        [count, spread(row["top1"]), seeds]
        for count, row in measured["outside_species"].items()
    ]
    return (
        "### Outside data\n\nA network is pretrained on drawn flowers of outside "
        "species, and then trained on drawn flowers of other species. With 0 outside "
        "species, it is trained from scratch. `results/outside_data.json` has the "
        "command and its commit.\n\n"
        + markdown(("outside species", "test top-1", "seeds"), lines)
    )

"""Convert configs to older layouts, such as the layout of the recorded results.

assert records.config_hash(recorded.layout(config)) == result["config_hash"]
"""

from collections.abc import Mapping

from seeflower_jax import records


def layouts(config: Mapping) -> list[dict]:
    """Return a config unchanged, without the newest keys, and in the oldest layout."""
    without = records.plain(config)
    for stage in without["stages"].values():
        _drop_defaults(stage, {"all_views": False})
    return [records.plain(config), without, layout(config)]


def layout(config: Mapping) -> dict:
    """Return a config of an official recipe in the layout of the recorded results.

    A newer key is left out if it has its default. A changed key stays, so the hash of a
    changed recipe differs.
    """
    values = records.plain(config)
    _drop_defaults(values["model"], dict.fromkeys(list(values["model"])))
    _drop_defaults(values["init"], {"pretraining": {}, "pretrained_share": 1.0})
    if values["model"]["name"].startswith("vgg"):
        values["model"].setdefault("hidden", [])
    else:
        _drop_defaults(values["init"], {"head": "new"})
    drawing = {"species": 16, "images_per_class": [10, 5, 25], "seed": 0}
    _drop_defaults(values["data"], {"balance": "none"})
    _drop_defaults(values["data"], drawing)
    _drop_defaults(values["eval"], {"keep_aspect": True})
    if not values["whitening"]["enabled"]:
        del values["whitening"]
    if values["recipe"] in ("three_stages", "two_stages"):
        values["recipe"] = "best"  # their old name
    for stage in values["stages"].values():
        _drop_defaults(
            stage,
            {
                "accum_steps": 1,
                "all_views": False,
                "keep_batch_stats": False,
                "solver": "gradient",
            },
        )
        _drop_defaults(stage["augment"], {"keep_aspect": True, "erasing": 0.0})
        _rename_optimizer(stage)
    return values


def _drop_defaults(section: dict, defaults: Mapping) -> None:
    for key, default in defaults.items():
        if section[key] == default:
            del section[key]


def _rename_optimizer(stage: dict) -> None:
    """Use the old name of AdamW: 'adam' had its decoupled weight decay."""
    known = {
        "adamw": ("adam", []),
        "rmsprop": ("rmsprop", [["eps", 1e-7]]),
    }
    name, options = known[stage["optimizer"]]
    assert stage.pop("optimizer_options") == options
    stage |= {"optimizer": name, "momentum": 0.9}

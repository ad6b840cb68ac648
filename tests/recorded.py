"""Convert configs to older layouts, such as the layout of the recorded results.

assert records.config_hash(recorded.layout(config)) == result["config_hash"]
"""

from collections.abc import Mapping

from seeflower_jax import records

# The old name of each optimizer, by its name and options. The old 'adam' had the
# decoupled weight decay of AdamW.
_OPTIMIZERS = {
    ("adamw", ()): "adam",
    ("rmsprop", (("eps", 1e-7),)): "rmsprop",
}


def layouts(config: Mapping) -> list[dict]:
    """Return a config unchanged, without the newest keys, and in the oldest layout.

    The oldest layout is left out if it does not have the optimizer of a stage.
    """
    without = records.plain(config)
    for stage in without["stages"].values():
        _drop_defaults(stage, {"all_views": False})
    newest = records.plain(config)
    optimizers = set(map(_optimizer, newest["stages"].values()))
    oldest = [layout(config)] if optimizers <= _OPTIMIZERS.keys() else []
    return [newest, without, *oldest]


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


def _optimizer(stage: Mapping) -> tuple:
    options = tuple(map(tuple, stage["optimizer_options"]))
    return stage["optimizer"], options


def _rename_optimizer(stage: dict) -> None:
    """Use the old name of the optimizer."""
    name = _OPTIMIZERS[_optimizer(stage)]
    del stage["optimizer_options"]
    stage |= {"optimizer": name, "momentum": 0.9}

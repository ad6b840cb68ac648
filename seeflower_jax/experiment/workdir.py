"""Reserve a run directory for one config and one set of images.

check_workdir(workdir, settings)      # raises if the directory holds another run
claim_workdir(workdir, settings)      # writes config.json
"""

import json
import pathlib

from seeflower_jax import records
from seeflower_jax.experiment.settings import Settings

# These values may change after the training. The run is then evaluated again.
_AFTER_TRAINING = "test_time."


def check_workdir(workdir: pathlib.Path, settings: Settings) -> None:
    """Raise an error if a run directory holds a run of another config.

    Two changes are allowed: further stages and other test-time views.

    Raises:
      ValueError: if other values differ; the message lists them.
    """
    path = workdir / "config.json"
    if not path.exists():
        return
    before, after = json.loads(path.read_text()), settings.config
    old, new = dict(records.flat(before)), dict(records.flat(after))
    free = {f"{section}.{key}" for section, key in records.LOCAL_KEYS}
    if settings.data.source == "folder":  # another folder holds other images
        free.remove("data.dir")
    trained = before["stage_order"]
    if after["stage_order"][: len(trained)] == trained:
        free.add("stage_order")
        free |= {key for key in new if key.startswith("stages.") and key not in old}
    differing = "\n".join(
        f"  config.{key}: {old.get(key, 'absent')} there, {new.get(key, 'absent')} now"
        for key in sorted(old | new)
        if old.get(key, ...) != new.get(key, ...)
        and key not in free
        and not key.startswith(_AFTER_TRAINING)
    )
    if differing:
        raise ValueError(
            f"{workdir} holds a run of another config:\n{differing}\n"
            "Give another --workdir, or the same config to resume that run"
        )


def claim_workdir(workdir: pathlib.Path, settings: Settings) -> None:
    """Write the config into a run directory that `check_workdir` accepted."""
    workdir.mkdir(parents=True, exist_ok=True)
    records.write_json(workdir / "config.json", settings.config)

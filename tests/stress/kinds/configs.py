"""Every key of a config with values that make no sense, from a file and as a flag.

A row of `KEYS` has the values that a key refuses. `EDGES` are valid values at the edge
of a range, which train a run to its end.
"""

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from tests.stress.cases import Case
from tests.stress.world import CONFIG, World

OWNER = "run"
NO_NUMBER: list[Any] = [math.nan, math.inf, -math.inf, "", "x", None, [], {}, "1e3x"]
NO_COUNT = [*NO_NUMBER, -1, 0.5, 1e300, True]  # of a whole number
NO_TEXT: list[Any] = [0, 1.5, [], None, {}, True]
NO_CHOICE = [*NO_TEXT, "", "nothing", " "]
NO_FLAG: list[Any] = [2, -1, "", "maybe", None, [], math.nan]
NO_RANGE: list[Any] = ["", "x", None, 0, (1,), (1, 2, 3), (0.9, 0.1), (math.nan, 1), ("a", "b")]  # fmt: skip
NO_SHARE = [*NO_NUMBER, -0.1, 1.5]

KEYS: dict[str, list] = {
    "recipe": [*NO_TEXT, ""],
    "seed": [*NO_COUNT, 2**32, 10**30],
    "metric": NO_CHOICE,
    "model": [0, "", None, [], "small"],
    "model.name": NO_CHOICE,
    "model.dropout": [*NO_SHARE, 1],
    "model.dtype": [*NO_CHOICE, "float16", "float64"],
    "model.pooling": ["", "x", 1, [], True],
    "model.pooled": ["", 1, ["nothing"], [1], "block5", math.nan],
    "model.hidden": ["", 1, [0], [-1], [math.nan], ["x"], [1.5]],
    "model.width": [math.nan, math.inf, -1, 0, "", "x", []],
    "model.input_size": [math.nan, math.inf, -1, 0, "", "x", 1.5, []],
    "model.preprocess": ["", "x", 0, []],
    "init.weights": [0, None, [], "absent.h5", "imagenet:nothing", "\0", "a" * 5000],
    "init.head": NO_CHOICE,
    "init.pretraining": [0, "", None, [], {"model.name": 1}, {"nothing": 1}],
    "data.source": NO_CHOICE,
    "data.dir": [0, None, [], "", "absent", "\0", "a" * 5000],
    "data.split": [*NO_TEXT, "", "nothing"],
    "data.verify": NO_FLAG,
    "data.cache_dir": [0, None, [], "\0", "/dev/null/x"],
    "data.shortest_side": [*NO_COUNT, 0, 10**7],
    "data.species": [*NO_COUNT, 0, 1],
    "data.images_per_class": [
        "",
        "x",
        None,
        0,
        (1, 2),
        (0, 1, 1),
        (-1, 1, 1),
        (1.5, 1, 1),
    ],  # fmt: skip
    "data.seed": [*NO_COUNT, 2**32],
    "whitening.enabled": NO_FLAG,
    "whitening.patch_size": [*NO_COUNT, 0, 2],
    "whitening.patches_per_image": [*NO_COUNT, 0],
    "whitening.epsilon": [*NO_NUMBER, -1, 0],
    "eval.size": [*NO_COUNT, 10**7],
    "eval.crop": [*NO_NUMBER, -1, 0, 1.1],
    "eval.keep_aspect": NO_FLAG,
    "eval.batch_size": [*NO_COUNT, 0],
    "test_time.views": [
        "",
        "x",
        None,
        0,
        (),
        (32,),
        ((32,),),
        ((32, 0),),
        ((32, 2),),
        ((-1, 1),),
        ((math.nan, 1),),
        (("x", 1),),
        ((10**7, 1.0),),
    ],  # fmt: skip
    "test_time.hflip": NO_FLAG,
    "stage_order": ["", "x", None, 0, (), ("nothing",), ("head", "head"), (0,), "head"],
    "stages": [0, "", None, [], {}, {"head": 1}],
    "stages.head": [0, "", None, [], {}],
    "stages.head.epochs": NO_COUNT,
    "stages.head.batch_size": [*NO_COUNT, 0, 10**9],
    "stages.head.accum_steps": [*NO_COUNT, 0, 4, 10**9],
    "stages.head.partition": [
        "",
        "x",
        None,
        0,
        (),
        ((".*",),),
        (("(", 1.0),),
        ((".*", 0),),
        ((".*", -1),),
        ((".*", math.nan),),
        ((".*", None),),
        (("nothing", 1.0),),
        ((".*", 1.0), (".*", 1.0)),
    ],  # fmt: skip
    "stages.head.optimizer": [*NO_CHOICE, "chain", "__class__"],
    "stages.head.optimizer_options": [
        "",
        "x",
        None,
        0,
        (("b1",),),
        (("nothing", 1),),
        ((0, 1),),
        (("b1", "x"),),
        (("b1", math.nan),),
    ],  # fmt: skip
    "stages.head.learning_rate": [*NO_NUMBER, -1, 0],
    "stages.head.schedule": NO_CHOICE,
    "stages.head.warmup_steps": NO_COUNT,
    "stages.head.weight_decay": [*NO_NUMBER, -1],
    "stages.head.clip_norm": [*NO_NUMBER, -1],
    "stages.head.label_smoothing": [*NO_SHARE, 1],
    "stages.head.ema_decay": [*NO_SHARE, 1],
    "stages.head.train_batch_stats": NO_FLAG,
    "stages.head.keep_batch_stats": NO_FLAG,
    "stages.head.validate_every": [*NO_COUNT, 0],
    "stages.head.early_stopping": [0, "", None, []],
    "stages.head.early_stopping.patience": NO_COUNT,
    "stages.head.early_stopping.min_delta": [*NO_NUMBER, -1],
    "stages.finetune.augment": [0, "", None, []],
    "stages.finetune.augment.enabled": NO_FLAG,
    "stages.finetune.augment.size": [*NO_COUNT, 10**7],
    "stages.finetune.augment.rotation": [*NO_NUMBER, -1, 181],
    "stages.finetune.augment.shear": [*NO_NUMBER, -1, 2],
    "stages.finetune.augment.shift": NO_SHARE,
    "stages.finetune.augment.zoom": [*NO_SHARE, 1],
    "stages.finetune.augment.hflip": NO_FLAG,
    "stages.finetune.augment.vflip": NO_FLAG,
    "stages.finetune.augment.crop_area": [*NO_RANGE, (0, 1), (0.5, 2)],
    "stages.finetune.augment.crop_ratio": [*NO_RANGE, (), (0, 1), (-1, 1)],
    "stages.finetune.augment.keep_aspect": NO_FLAG,
    "stages.finetune.augment.brightness": NO_SHARE,
    "stages.finetune.augment.contrast": NO_SHARE,
    "stages.finetune.augment.mixup": [*NO_NUMBER, -1],
    "stages.finetune.augment.cutmix": [*NO_NUMBER, -1],
}
EDGES: dict[str, list] = {
    "seed": [2**32 - 1],
    "model.dropout": [0],
    "data.shortest_side": [33],
    "eval.crop": [0.01],
    "eval.batch_size": [1, 10**4],
    "stages.head.epochs": [0],
    "stages.head.warmup_steps": [10**9],
    "stages.head.clip_norm": [1e-30],
    "stages.head.ema_decay": [0.999999],
    "stages.head.validate_every": [10**9],
    "stages.finetune.augment.rotation": [0, 180],
    "stages.finetune.augment.zoom": [0.99],
    "stages.finetune.augment.mixup": [0, 1e-6, 1e6],
    "stages.finetune.augment.cutmix": [0, 1e-6, 1e6],
    "stages.finetune.augment.brightness": [1],
}
_TYPOS = (
    "model.nmae",
    "seeed",
    "stages.head.epoch",
    "stages.finetune.augment.rotate",
    "data.directory",
    "eval.batchsize",
    "init.weight",
)


def finite(completed, folder, world: World) -> None:
    """Check that a run with values at the edge of their range has a finite result."""
    result = json.loads(completed.stdout)
    for split in ("validation", "test"):
        values = [v for v in result[split].values() if isinstance(v, int | float)]
        assert values and all(map(math.isfinite, values)), result[split]


def file_case(key: str, number: int, value: Any, expect: str, check) -> Case:
    """Return the case of a value that a config file has."""
    # repr writes nan and inf as the config of the stress test reads them.
    arguments = [f"{CONFIG}:{{{key!r}: {value!r}}}", "--workdir={folder}/run", "--json"]
    names = [key, key.rpartition(".")[2]]
    names += [value[:20]] if isinstance(value, str) and len(value) > 4 else []
    names = "|".join(map(re.escape, names))
    name = f"{'edge' if check else 'file'}_{key}_{number}"
    more = {"check": check} if check else {}
    return Case(name, "train", arguments, expect, names, **more)


def cases() -> Iterator[Case]:
    """Yield all cases of configs."""
    for key, values in KEYS.items():
        for number, value in enumerate(values):
            # `False == 0` in Python: a number may be read as what it equals.
            yield file_case(key, number, value, "refused", None)
    for key in KEYS:
        for value in ("nan", "inf", "-1", "", "x", "1e999", "[]", "None"):
            refused = _refuses(key, value)
            if refused:
                arguments = [
                    CONFIG,
                    f"--config.{key}={value}",
                    "--workdir={folder}/run",
                ]
                names = "|".join({key, key.rpartition(".")[2]}).replace(".", r"\.")
                yield Case(f"flag_{key}={value}", "train", arguments, "refused", names)
    for key, values in EDGES.items():
        for number, value in enumerate(values):
            yield file_case(key, number, value, "accepted", finite)
    for key in _TYPOS:
        name = key.rpartition(".")[2]
        for door, text in (("flag", f"--config.{key}=1"), ("file", f"{CONFIG}:{{{key!r}: 1}}")):  # fmt: skip
            arguments = [CONFIG, text] if door == "flag" else [text]
            yield Case(f"typo_{door}_{key}", "train", [*arguments, "--workdir={folder}/run"], "refused", name)  # fmt: skip
    yield from _files()


def _refuses(key: str, text: str) -> bool:
    """Return whether a key refuses a text of the command line."""
    refused = KEYS[key]
    if text in ("-1", "x"):
        return (-1 if text == "-1" else "x") in refused
    if text in ("nan", "inf", "1e999"):
        return any(isinstance(v, float) and not math.isfinite(v) for v in refused)
    return text == "" and "" in refused and key.count(".") > 0


def _files() -> Iterator[Case]:
    """Yield config files that are none, and flags that are none."""
    contents = {
        "empty": "",
        "syntax": "def get_config(:\n",
        "no_function": "x = 1\n",
        "none": "def get_config():\n    return None\n",
        "dict": "def get_config():\n    return {}\n",
        "number": "get_config = 3\n",
        "raises": "def get_config():\n    return 1 / 0\n",
        "import": "import nothing_of_this_name\n",
        "exits": "import sys\nsys.exit(7)\n",
        "empty_config": "from ml_collections import ConfigDict\nget_config = ConfigDict\n",  # fmt: skip
        "recursion": "def get_config():\n    return get_config()\n",
        "html": "<html></html>",
        "zeros": "\0\0\0",
    }
    for name, content in contents.items():
        yield Case(f"config_{name}", "train", ["--config={folder}/c.py", "--workdir={folder}/run"], "refused", r"c\.py|config", lambda h, w, c=content: (h / "c.py").write_text(c))  # fmt: skip
    rows = {
        "absent": ["--config=absent.py"],
        "folder": ["--config=configs"],
        "none": [],
        "empty": ["--config="],
        "image": ["--config={world}/photos/daisy/0.png"],
        "flagfile": ["--flagfile=absent.txt"],
        "typo": [CONFIG, "--workdri=x"],
        "argument": [CONFIG, "more"],
        "seconds": [CONFIG, "--checkpoint_seconds=x"],
        "seconds_nan": [CONFIG, "--checkpoint_seconds=nan"],
        "seconds_negative": [CONFIG, "--checkpoint_seconds=-1"],
        "plugin": [CONFIG, "--plugins=nothing_of_this_name"],
        "bool": [CONFIG, "--test=maybe"],
        "workdir_file": [CONFIG, "--workdir={world}/photos/daisy/0.png"],
        "workdir_below": [CONFIG, "--workdir={world}/photos/daisy/0.png/run"],
        "workdir_null": [CONFIG, "--workdir=/dev/null"],
        "workdir_zero": [CONFIG, "--workdir=a\0b"],
        "workdir_long": [CONFIG, "--workdir={folder}/" + "x" * 300],
        "workdir_proc": [CONFIG, "--workdir=/proc/run"],
    }
    names = {"absent": "absent", "folder": "configs", "image": "0.png", "flagfile": "absent", "typo": "workdri", "argument": "more", "plugin": "nothing_of", "workdir_zero": "workdir|null", "none": "config", "empty": "config"}  # fmt: skip
    for name, arguments in rows.items():
        pattern = names.get(name) or name.split("_")[0] + "|0.png|xxx|null|proc"
        yield Case(f"flags_{name}", "train", arguments, "refused", pattern)

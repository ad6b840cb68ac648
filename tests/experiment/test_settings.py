"""Test the typed values of a config, and the errors for wrong values."""

import math

import jax
import pytest
from ml_collections import ConfigDict

from configs import base, inception, vgg16
from seeflower_jax import records
from seeflower_jax.experiment import train
from seeflower_jax.experiment.checks import RULES, STAGE_RULES
from seeflower_jax.experiment.network_checks import check_network
from seeflower_jax.experiment.settings import SettingsError, derive, read_settings

STAGE = "stages.finetune."
NONSENSE = {
    "seed": [-1, 1.5, True, 2**32],
    "recipe": [""],
    "metric": ["accuracy"],
    "model.name": ["vgg17"],
    "model.dropout": [-0.1, 1.0, 1.5, math.nan],
    "model.dtype": ["float16"],
    "device.compilation_cache": ["yes", None],
    "device.matmul_precision": ["float16", None],
    "data.on_device": [True, "gpu"],
    "model.pooling": ["max"],
    "model.pooled": [("block[3",), (5,), "block3_pool"],
    "model.hidden": [(0,), (2.5,)],
    "model.width": [0.0, -1.0, math.inf, math.nan],
    "model.input_size": [0, -224],
    "model.preprocess": ["caffe2"],
    "init.head": ["old"],
    "init.pretrained_share": [-0.1, 1.1],
    "data.source": ["folders"],
    "data.balance": ["", "weights", None],
    "data.logit_adjustment": [-1.0, 101.0],
    "distillation.weight": [-0.1, 1.1, 0.5],
    "distillation.temperature": [0.0, 1e3],
    "distillation.logits": ["teacher.npz", None],
    "data.split": [""],
    "data.shortest_side": [0, -5],
    "data.species": [0, 1],
    "data.seed": [-1],
    "data.images_per_class": [(1, 2), (1, 2, -3), (0, 2, 2)],
    "whitening.patch_size": [4, 0],
    "whitening.epsilon": [0.0, -1.0],
    "eval.size": [-1],
    "eval.crop": [0.0, -0.5, 1.5, math.nan],
    "eval.batch_size": [0, -8],
    "test_time.views": [(), ((320,),), ((-5, 1.0),), ((320, 0.0),), ((320, 2.0),)],
    "stage_order": [(), ("head", "fintune"), ("head", "head")],
    STAGE + "solver": ["newton"],
    STAGE + "all_views": [1, True],
    STAGE + "draws": [-1, 1.5],
    STAGE + "epochs": [-1],
    STAGE + "batch_size": [0, -4],
    STAGE + "accum_steps": [0, 3],
    STAGE + "partition": [(), (("head/.*", 0.0),), (("(", 1.0),), (("a", -1.0),)],
    STAGE + "optimizer": ["", "adamm", "lbfgs", "scale_by_adam"],
    STAGE + "optimizer_options": [(("b1",),), (("b3", 0.9),), (("b1", "x"),)],
    STAGE + "learning_rate": [0.0, -1e-3, math.inf, math.nan],
    STAGE + "schedule": ["linear"],
    STAGE + "warmup_steps": [-1],
    STAGE + "weight_decay": [-0.1, math.nan],
    STAGE + "clip_norm": [-1.0, math.inf],
    STAGE + "label_smoothing": [-0.1, 1.0],
    STAGE + "ema_decay": [-0.5, 1.0, 1.5],
    STAGE + "validate_every": [0],
    STAGE + "early_stopping.patience": [-1],
    STAGE + "early_stopping.min_delta": [-0.1, math.nan],
    STAGE + "augment.size": [-1],
    STAGE + "augment.rotation": [-5.0, 400.0],
    STAGE + "augment.shear": [-0.1, 2.0],
    STAGE + "augment.shift": [-0.1, 1.5],
    STAGE + "augment.zoom": [-0.1, 1.0],
    STAGE + "augment.crop_area": [(0.0, 1.0), (0.5,), (0.9, 0.3), (0.5, 1.2)],
    STAGE + "augment.crop_ratio": [(), (0.0, 1.0), (2.0, 1.0)],
    STAGE + "augment.brightness": [-0.1, 2.0],
    STAGE + "augment.contrast": [-0.1, 2.0],
    STAGE + "augment.erasing": [-0.1, 1.5],
    STAGE + "augment.mixup": [-1.0, math.nan],
    STAGE + "augment.cutmix": [-1.0],
}
# Values beyond the memory of a machine, or that float32 rounds to a refused value.
NONSENSE_BY_SIZE = {
    "model.dropout": 1 - 1e-9,
    "model.hidden": (10**9,),
    "model.width": 1e6,
    "model.input_size": 10**7,
    "data.shortest_side": 10**7,
    "data.species": 10**9,
    "data.images_per_class": (10**9, 1, 1),
    "whitening.patch_size": 333,
    "whitening.patches_per_image": 10**9,
    "whitening.epsilon": 1e-50,
    "eval.size": 10**7,
    "eval.crop": 1e-9,
    "eval.batch_size": 10**9,
    "test_time.views": ((10**7, 1.0),),
    STAGE + "epochs": 10**9,
    STAGE + "batch_size": 10**9,
    STAGE + "partition": ((".*", 1e-50),),
    STAGE + "optimizer_options": (("b1", math.nan),),
    STAGE + "learning_rate": 1e-50,
    STAGE + "warmup_steps": 2**31,
    STAGE + "clip_norm": 1e-50,
    STAGE + "ema_decay": 1 - 1e-9,
    STAGE + "augment.size": 10**7,
    STAGE + "augment.zoom": 0.9999,
    STAGE + "augment.crop_area": (1e-9, 1.0),
    STAGE + "augment.crop_ratio": (1e-9, 1.0),
    STAGE + "augment.mixup": 1e-30,
}
NO_NUMBERS = [math.nan, math.inf, -math.inf, 1e300, 10**400, -1, True, "1", [], {}]
CASES = [(key, value) for key, values in NONSENSE.items() for value in values]


def _change(config, key, value):
    values = config.to_dict()
    section = values
    *path, last = key.split(".")
    for name in path:
        section = section[name]
    section[last] = value
    return values


@pytest.mark.parametrize("key,value", CASES, ids=[f"{k}={v}" for k, v in CASES])
def test_a_value_without_sense_is_refused_in_one_line(key, value, tmp_path):
    config = inception.three_stages()
    config.stages.finetune.weight_decay = 0.0  # every optimizer accepts 0
    config = _change(config, key, value)
    with pytest.raises(SettingsError) as caught:
        train.train(config, tmp_path / "run")
    (line,) = str(caught.value).splitlines()
    assert line.startswith("config.") and "; expected" in line
    assert key.rpartition(".")[2] in line
    assert not (tmp_path / "run").exists()


def _is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def test_no_number_is_replaced_by_nonsense_or_by_another_type():
    config, count = inception.three_stages(), 0
    for key, default in records.flat(config):
        if not _is_number(default) or key.startswith(("stages.head", "stages.settle")):
            continue
        count += 1
        for value in (*NO_NUMBERS, None):
            with pytest.raises(SettingsError, match=key.rpartition(".")[2]):
                read_settings(_change(config, key, value))
    assert count > 30


@pytest.mark.parametrize("key", NONSENSE_BY_SIZE)
def test_a_value_beyond_memory_or_precision_is_refused(key):
    config = _change(inception.three_stages(), key, NONSENSE_BY_SIZE[key])
    with pytest.raises(SettingsError, match=key.rpartition(".")[2] + r" is .*expected"):
        read_settings(config)


@pytest.mark.parametrize(
    "changes,message",
    [
        (
            {STAGE + "partition": (("head/.*", 1.0), ("backbone/mixt.*", None))},
            "config.stages.finetune.partition: each parameter must match exactly one",
        ),
        (
            {STAGE + "partition": (("head/.*|backbone/.*", None),)},
            "config.stages.finetune.partition: .* leave nothing to train",
        ),
        (
            {"model.pooled": ("mixed99",)},
            "config.model describes a network that cannot be built: .*mixed99",
        ),
        ({"eval.size": 8}, "config.eval.size is 8; expected more pixels"),
        (
            {STAGE + "augment.size": 20},
            "config.stages.finetune.augment.size is 20; expected more pixels",
        ),
        (
            {
                "whitening.enabled": True,
                "whitening.patch_size": 31,
                "data.shortest_side": 30,
            },
            "config.whitening.patch_size is 31; expected at most .*, 30",
        ),
        (
            {"init.weights": "", "init.head": "all"},
            "config.init.head is 'all'; expected 'new'",
        ),
        ({"init.pretraining": "x"}, "config.init.pretraining is 'x'; expected the val"),
        (
            {"init.pretraining": {"seed": -1}},
            "config.init.pretraining: config.seed is -1; expected",
        ),
        (
            {"init.pretraining": {"model": {"pooled": ("mixed99",)}}},
            "^config.init.pretraining: config.model describes .* built: .*mixed99",
        ),
        (  # The pretraining run inherits the value.
            {"eval.size": 8, "init.pretraining": {"seed": 1}},
            "(?s)^(?!.*init.pretraining)config.eval.size is 8; expected more pixels",
        ),
        (
            {"init.pretraining": {"stages": {"x": {}}, "stage_order": ("x",)}},
            "config.init.pretraining: config.stages.x.solver is missing; expected",
        ),
        (
            {"init.pretraining": {"stage_order": None}},
            "config.init.pretraining: config.stage_order is None; expected names",
        ),
        (
            {"init.pretraining": {"data": {"source": "folder", "dir": ""}}},
            "config.init.pretraining: config.data.dir is ''; expected the folder",
        ),
        (
            {"data.source": "folder", "data.dir": ""},
            "^config.data.dir is ''; expected the folder of the images",
        ),
        (
            {"init.pretrained_share": 0.5},
            "config.init.pretrained_share is 0.5; expected 1, because",
        ),
        (
            {
                "init.weights": "",
                "init.pretraining": {"seed": 1},
                "init.pretrained_share": 0.5,
            },
            "is 0.5; expected 1, because config.init.pretraining starts from random",
        ),
        (
            {"init.pretraining": {"model": {"width": 0.5}}},
            r"^config.init.pretraining.model describes other layers .*Conv2d_1a_3x3",
        ),
        (
            {"model.standardize": True},
            "^config.model.standardize is True; expected False, because",
        ),
        ({"model": 5}, "config.model is 5; expected a section"),
        ({STAGE + "augment": []}, r"^config.*augment is \[\]; expected a section.*py$"),
    ],
)
def test_values_that_do_not_fit_each_other(changes, message, tmp_path):
    """They are refused before the images are opened, which do not exist."""
    config = inception.three_stages()
    config.data.dir = str(tmp_path / "absent")
    for key, value in changes.items():
        config = ConfigDict(_change(config, key, value))
    with pytest.raises(SettingsError, match=message):
        train.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("variant,head", [("linear", "new"), ("three_stages", "all")])
def test_standardised_features_are_allowed_if_something_sets_their_moments(
    variant, head
):
    config = inception.get_config(variant)
    config.model.standardize, config.init.head = True, head
    check_network(read_settings(config))


def test_every_value_that_is_read_has_a_case():
    """Strings and booleans have no range and are left out."""
    free = {"init.weights", "data.dir", "data.verify", "data.cache_dir"}
    free |= {"whitening.enabled", "whitening.patches_per_image", "eval.keep_aspect"}
    free |= {"test_time.hflip", "model.standardize"}
    stage_free = {"train_batch_stats", "keep_batch_stats", "augment.enabled"}
    stage_free |= {"augment.hflip", "augment.vflip", "augment.keep_aspect"}
    assert NONSENSE.keys() | free >= RULES.keys()
    assert {STAGE + k for k in STAGE_RULES.keys() - stage_free} <= NONSENSE.keys()


def test_several_errors_are_listed_together():
    config = inception.three_stages()
    config.model.dropout, config.stages.head.batch_size = 2.0, 0
    with pytest.raises(SettingsError) as caught:
        read_settings(config)
    assert str(caught.value).splitlines() == [
        "config.model.dropout is 2.0; expected a number from 0 to below 1",
        "config.stages.head.batch_size is 0; expected a whole number from 1 to 65536",
    ]


def test_missing_and_unknown_keys():
    config = inception.three_stages().to_dict()
    del config["eval"]["crop"]
    config["eval"]["corp"] = 1.0
    with pytest.raises(SettingsError) as caught:
        read_settings(config)
    missing, unknown = str(caught.value).splitlines()
    assert missing.startswith("config.eval.crop is missing; expected a number")
    assert unknown == "config.eval.corp is not a known key; did you mean 'eval.crop'?"


def test_all_epochs_zero():
    config = inception.three_stages()
    for stage in config.stages.values():
        stage.epochs = 0
    with pytest.raises(SettingsError, match="epochs are all 0"):
        read_settings(config)


def test_flattened_features_have_one_size():
    config = vgg16.get_config("corrected")
    config.test_time.views = ((256, 1.0),)
    with pytest.raises(
        SettingsError, match=r"test_time.views\[0\] is 256; expected 224"
    ):
        read_settings(config)


def test_values_are_typed():
    settings = read_settings(inception.three_stages())
    assert (settings.view.size, settings.view.shortest_side) == (320, 320)
    assert settings.averages_views and settings.mirror
    head, finetune, settle = settings.stages
    assert (head.name, head.index, head.augmentation) == ("head", 0, None)
    assert head.freezes_backbone("head/.*") and not finetune.freezes_backbone("head/.*")
    assert finetune.augmentation.size == 224 and settle.augmentation.mixup == 0.0
    assert settings.spec(7).num_classes == 7 and settings.spec(7).dropout == 0.2


def test_a_config_reads_the_same_from_json():
    config = vgg16.get_config()
    settings = read_settings(config)
    again = read_settings(settings.config)
    assert again.stages == settings.stages and again.views == settings.views
    assert again.config_hash == settings.config_hash


def test_stage_without_epochs_keeps_the_index_of_the_others():
    config = inception.three_stages()
    config.stages.head.epochs = 0
    assert [stage.index for stage in read_settings(config).stages] == [1, 2]


def test_small_outputs_are_sampled_often_enough():
    config = inception.three_stages()
    config.stages.finetune.augment.size = 32
    assert read_settings(config).stages[1].augmentation.oversampling == 10
    assert read_settings(config).stages[2].augmentation.oversampling == 1


def test_derived_config_differs_in_what_is_named():
    config = base.get_config()
    config.init.pretraining = ConfigDict({"data": {"split": "source"}, "seed": 3})
    derived = derive(config, config.init.pretraining)
    assert derived["data"]["split"] == "source" and derived["seed"] == 3
    assert derived["init"]["pretraining"] == {}
    assert derived["data"]["source"] == config.data.source
    assert config.data.split == "official"


@pytest.mark.parametrize("backend,dtype", [("cpu", "float32"), ("gpu", "bfloat16")])
def test_automatic_type_is_recorded_as_the_type_that_it_is(monkeypatch, backend, dtype):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    config = inception.three_stages()
    config.model.dtype = "auto"
    settings = read_settings(config)
    assert settings.spec(5).dtype == dtype
    config.model.dtype = dtype
    assert settings.config == read_settings(config).config

r"""Convert weights between the frameworks.

    python -m scripts.convert_weights --model=inception_v3 --source=FILE --out=DIR
    python -m scripts.convert_weights --workdir=runs/inception_seed0 --to=keras_h5 \
        --out=flowers.h5

`FILE` is a weight file of Keras or torchvision. `DIR` gets an Orbax checkpoint, and
model.json with the ModelSpec and the file's SHA-256. scripts.train takes `DIR` as
--config.init.weights. --to=keras_h5 writes a file for Keras' `load_weights`,
--to=safetensors a file with torchvision's names. The names of these files end in .h5
and .safetensors. A trained run is converted with its classifier, unless you add
--nohead. The script refuses a network that Keras or torchvision would compute
differently.
"""

from absl import app, flags

from scripts import console
from seeflower_jax import records
from seeflower_jax.inference.run import load_run
from seeflower_jax.models.preprocess import PREPROCESS
from seeflower_jax.pretrained import loading, writers

_MODEL = flags.DEFINE_string("model", None, "The network of --source.")
_SOURCE = flags.DEFINE_string("source", None, "A weight file.")
_WORKDIR = flags.DEFINE_string("workdir", None, "The directory of a trained run.")
_OUT = flags.DEFINE_string("out", None, "The file or folder to write.", required=True)
flags.register_validator("out", lambda path: path != "", "expected a path")
_HEAD = flags.DEFINE_bool("head", True, "Convert the classifier too.")
_PREPROCESS = flags.DEFINE_enum(
    "preprocess", None, list(PREPROCESS), "Preprocessing of --source, if unusual."
)
_TO = flags.DEFINE_enum("to", "orbax", writers.FORMATS, "The format of --out.")


def _load():
    if (_WORKDIR.value is None) == (_SOURCE.value is None):
        raise app.UsageError("expected one of --workdir and --source")
    if _SOURCE.value is not None:
        if _MODEL.value is None:
            raise app.UsageError("--source needs --model")
        return loading.load_source(
            _MODEL.value, _SOURCE.value, preprocess=_PREPROCESS.value, head=_HEAD.value
        )
    if _MODEL.value is not None or _PREPROCESS.value is not None:
        raise app.UsageError("--model and --preprocess need --source")
    run = load_run(_WORKDIR.value)
    if run.network.preprocess is not None:
        raise ValueError(
            f"{_WORKDIR.value} whitens its images, and weight files hold no whitening; "
            "use scripts.export"
        )
    source = {"name": run.workdir.name, "sha256": None, "exact": None}
    source["config_hash"] = records.config_hash(run.config)
    variables = run.network.variables
    if not _HEAD.value:
        variables = loading.without_head(variables)
    return run.network.spec, variables, source


def main(_) -> None:
    writers.check_name(_OUT.value, _TO.value)
    spec, variables, source = _load()
    writers.write(_OUT.value, _TO.value, spec, variables, source)
    result = {"out": _OUT.value, "spec": spec.to_dict(), "source": source}
    console.show(result, _OUT.value)


if __name__ == "__main__":
    console.run(main)

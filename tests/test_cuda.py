"""Test what a GPU would compute: each jitted function, lowered for CUDA on a CPU."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seeflower_jax import models, sharding
from seeflower_jax.attribution import METHODS, activation_max
from seeflower_jax.attribution.batch import make_explainer
from seeflower_jax.data import resident
from seeflower_jax.data.augmentation import Augmentation
from seeflower_jax.data.loader import ImageReader, TrainLoader
from seeflower_jax.data.view import View
from seeflower_jax.evaluation.evaluator import Evaluator
from seeflower_jax.experiment import head_features, precision
from seeflower_jax.explain import closer, scorer
from seeflower_jax.inference.network import Network
from seeflower_jax.training import step
from seeflower_jax.training.optimizer import make_optimizer
from seeflower_jax.training.stages import Stage
from seeflower_jax.training.state import create_state
from tests import fixtures
from tests.data.test_packed import COUNT, INDICES, Images

pytestmark = pytest.mark.long

BATCH, CLASSES, SIDE = 4, 5, 32
MESH = sharding.make_mesh()
VIEW = View(size=SIDE, shortest_side=36)
KEY = jax.random.key(0)


def lower(function, *arguments):
    """Return the StableHLO of a jitted function for CUDA; nothing is compiled."""
    return function.trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()


def array(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def make_spec(name="small", **changes):
    return models.get_spec(name, num_classes=CLASSES, width=0.05, **changes)


def convolutions(text):
    """Return the types of the arrays of each convolution."""
    lines = re.findall(r"stablehlo\.convolution\(.*?:\s*(\(.*?\) -> \S+)", text, re.S)
    return [re.findall(r"x(bf16|f\d+)>", line) for line in lines]


def count_kernels(spec):
    """Return the number of the convolutions of a network."""
    return sum(leaf.ndim == 4 for leaf in jax.tree.leaves(models.shapes(spec)))


def batch_of(**arrays):
    integers = {"labels": (BATCH,), "indices": (BATCH,), "sizes": (BATCH, 2)}
    return {name: array(*s, dtype=jnp.int32) for name, s in integers.items()} | arrays


CANVAS = array(BATCH, 40, 48, 3, dtype=jnp.uint8)
BATCHES = {
    "canvas": batch_of(canvas=CANVAS),
    "rows": batch_of(pixels=array(BATCH, 1600, 3, dtype=jnp.uint8)),
    "store": batch_of(
        pixels=array(9000, 3, dtype=jnp.uint8), starts=array(BATCH, dtype=jnp.int32)
    ),
}


def training_step(spec, batch, on_features=False, **changes):
    """Return the jitted step of a stage, and arguments to lower it with."""
    settings = {"rules": ((".*", 1.0),), "ema_decay": 0.9, "train_batch_stats": True}
    settings |= {"augmentation": Augmentation(SIDE, hflip=True, cutmix=1.0)}
    if on_features:
        rules = (("head/.*", 1.0), ("backbone/.*", None))
        settings |= {"rules": rules, "train_batch_stats": False, "augmentation": None}
    stage = Stage(
        name="finetune",
        index=0,
        epochs=1,
        batch_size=BATCH,
        learning_rate=0.1,
        view=VIEW,
        **settings | changes,
    )
    optimizer = make_optimizer(stage, stage.schedule(10))
    make = step.make_feature_step if on_features else step.make_image_step
    compiled = step.compile_step(make(spec, stage, optimizer), BATCH, MESH)
    state = jax.eval_shape(
        lambda variables: create_state(variables, stage, optimizer), models.shapes(spec)
    )
    return compiled, (state, batch, KEY)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["small", "vgg16", "inception_v3"])
def test_step_has_plain_convolutions_of_its_type(name, dtype):
    spec = make_spec(name, dtype=dtype)
    side = {"small": SIDE, "vgg16": 32, "inception_v3": 80}[name]
    augmentation = Augmentation(side, hflip=True, cutmix=1.0)
    compiled, arguments = training_step(
        spec, BATCHES["rows"], augmentation=augmentation
    )
    text = lower(compiled, *arguments)
    found, kernels = convolutions(text), count_kernels(spec)
    # Forward pass, gradients of all kernels, and gradients of all inputs except the
    # images.
    assert len(found) == 3 * kernels - 1
    short = {"float32": "f32", "bfloat16": "bf16"}[dtype]
    assert {kind for kinds in found for kind in kinds} == {short}
    assert ("bf16" in text) == (dtype == "bfloat16")
    # Normalisation, softmax, loss, and the matrix products of the head.
    operations = ["exponential", "log", "dot_general"]
    for operation in operations + ["rsqrt"] * (name != "vgg16"):
        lines = re.findall(rf"stablehlo\.{operation} .*", text)
        assert lines and not [line for line in lines if "bf16" in line], operation
    # The gradients of biases and of max pooling, and average pooling with its gradient,
    # which a GPU adds in their own type.
    sums = re.findall(r"applies stablehlo\.add .*", text)
    sums += re.findall(r"(?s)select_and_scatter\".*?\}\) : ([^\n]*)", text)
    windows = re.findall(r'(?s)reduce_window".*?\}\) : [^\n]*', text)
    added = [window for window in windows if "stablehlo.add" in window]
    assert bool(added) == (name == "inception_v3")
    sums += added
    assert sums and not [line for line in sums if "bf16" in line]


def test_step_reuses_the_memory_of_its_state():
    for form, batch in BATCHES.items():
        compiled, arguments = training_step(make_spec(), batch)
        text = lower(compiled, *arguments)
        signature = text[text.index("@main(") : text.index("{\n", text.index("@main("))]
        donated = len(re.findall(r"tf\.aliasing_output|jax\.buffer_donor", signature))
        assert donated == len(jax.tree.leaves(arguments[0])), form


def test_step_returns_five_scalars_besides_its_state():
    compiled, arguments = training_step(make_spec(), BATCHES["store"])
    _, metrics = jax.eval_shape(compiled, *arguments)
    assert {name: value.shape for name, value in metrics.items()} == dict.fromkeys(
        ("loss", "correct", "count", "gradient_norm", "update_norm"), ()
    )


def test_precision_of_products_is_in_the_program():
    function, arguments = training_step(make_spec(), BATCHES["canvas"])
    wanted = {"default": "DEFAULT", "tensorfloat32": "HIGH", "float32": "HIGHEST"}
    for name, expected in wanted.items():
        with precision.of_products(name):
            text = lower(function, *arguments)
        lines = re.findall(r"stablehlo\.(?:convolution|dot_general).*", text)
        named = {
            word for line in lines for word in re.findall(r"\b(DEFAULT|HIGH\w*)", line)
        }
        assert named == {expected}, name
    with pytest.raises(ValueError):
        precision.of_products("float8").__enter__()


def _network(spec):
    names = tuple("abcde")
    variables = fixtures.random_variables(spec, 0)
    return Network(spec=spec, variables=variables, view=VIEW, class_names=names)


def _training(spec):
    """Yield (name, jitted function, arguments, forward passes) of the training."""
    variables, canvas = models.shapes(spec), BATCHES["canvas"]
    images = array(BATCH, SIDE, SIDE, 3)
    features = jax.eval_shape(
        lambda v, x: models.features(spec, v, x), variables, images
    )
    of_features = batch_of(features=features)
    yield "step on features", *training_step(spec, of_features, True), 0
    evaluator = Evaluator(spec, (VIEW,), BATCH, MESH, mirror=True)
    yield "logits", evaluator.compute_logits, (variables, canvas), 2
    of_batch = variables, {"features": features}
    yield "logits of features", evaluator.compute_logits, of_batch, 0
    yield "features", evaluator.compute_features, (variables, canvas), 2
    draw = head_features.make_draws(evaluator, Augmentation(SIDE), KEY)(0)
    yield "draw", draw.func, (*draw.args, variables, canvas), 1
    source, labels = Images(), np.zeros(COUNT, np.int32)
    loader = TrainLoader(ImageReader(source), labels, INDICES, BATCH, MESH, (0,))
    batches = resident.ResidentLoader(loader, resident.put(source, INDICES, MESH))
    taken = batches._examples, batches._order(0), jnp.int32(0)
    yield "resident batch", batches._take, taken, 0


def _inference(spec):
    """Yield (name, jitted function, arguments, forward passes) of trained networks."""
    network, variables = _network(spec), models.shapes(spec)
    images, labels = array(BATCH, SIDE, SIDE, 3), array(BATCH, dtype=jnp.int32)
    maps, sizes = array(BATCH, SIDE, SIDE), array(BATCH, 2, dtype=jnp.int32)
    yield "predict", network.compute_logits, (variables, CANVAS, sizes), 1
    yield "view", network._view, (CANVAS, sizes), 0
    look = closer.make_closer_look(network)
    yield "closer look", look, (variables, BATCHES["canvas"]), 1
    score = scorer.Scorer(network, ["grad_cam"], None, None)
    scored = variables, images, maps, labels
    yield "faithfulness", score._compute_faithfulness, scored, 1
    keys = jax.eval_shape(lambda: jax.random.split(KEY, BATCH))
    yield "infidelity", score._compute_infidelity, (*scored, keys), 1
    sensitivity = variables, images, labels, keys
    yield "sensitivity", score._compute_sensitivity[0], sensitivity, 1
    masks = array(BATCH, SIDE, SIDE, dtype=jnp.bool_)
    yield "localise", scorer.localise, (maps, masks), 0

    def maximise(variables, labels, key):
        form = activation_max.FORMS["robust"]
        form = dataclasses.replace(form, naturalness=0.0)
        return activation_max.maximise(
            network.bind(variables), labels, key, form, size=SIDE, steps=2
        )

    yield "maximise", jax.jit(maximise), (variables, labels, KEY), 1


@pytest.mark.parametrize("functions", [_training, _inference])
def test_other_functions_have_plain_convolutions(functions):
    spec = make_spec()
    kernels = count_kernels(spec)
    for name, function, arguments, passes in functions(spec):
        found = len(convolutions(lower(function, *arguments)))
        assert found >= passes * kernels, name
        assert bool(found) == bool(passes), name


def test_maps_have_plain_convolutions():
    """One function computes the maps of all attribution methods."""
    spec = make_spec()
    explain = make_explainer(
        spec, list(METHODS), size=SIDE, options=fixtures.FEW_PASSES
    )
    arguments = (
        models.shapes(spec),
        array(BATCH, SIDE, SIDE, 3),
        array(BATCH, dtype=jnp.int32),
        jax.random.split(KEY, BATCH),
    )
    text = lower(jax.jit(explain), *arguments)
    assert len(convolutions(text)) > len(METHODS) * count_kernels(spec)

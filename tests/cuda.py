"""Lower the jitted functions of the package for CUDA on a CPU.

    for name, lowering, passes in cuda.training(cuda.make_spec()):
        text = lowering()

The generators `training`, `inference` and `jobs` yield "file: function" of a jitted
function, its lowering, and its number of forward passes. A lowering returns StableHLO.
Nothing is compiled.
"""

import contextlib
import re
from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from seeflower_jax import models, sharding
from seeflower_jax.attribution import activation_max, registry
from seeflower_jax.attribution import batch as attribution_batch
from seeflower_jax.attribution.types import as_pytree
from seeflower_jax.data import resident
from seeflower_jax.data.augmentation import Augmentation
from seeflower_jax.data.loader import ImageReader, TrainLoader
from seeflower_jax.data.view import View
from seeflower_jax.evaluation.evaluator import Evaluator
from seeflower_jax.experiment import head_features
from seeflower_jax.explain import closer, maximise, score, scorer
from seeflower_jax.inference.explainer import Explainer
from seeflower_jax.inference.network import Network
from seeflower_jax.report.demo import Demo
from seeflower_jax.sharding import processes
from seeflower_jax.studies import directions
from seeflower_jax.training import step
from seeflower_jax.training.optimizer import make_optimizer
from seeflower_jax.training.stages import Stage
from seeflower_jax.training.state import create_state
from tests import fixtures
from tests.data.test_packed import COUNT, INDICES, Images
from tests.explain import small

BATCH, CLASSES, SIDE = 4, 5, 32
MESH = sharding.make_mesh()
VIEW = View(size=SIDE, shortest_side=36)
KEY = jax.random.key(0)
LAYER = "block5"
DTYPES = {"float32": "f32", "bfloat16": "bf16"}  # and their names in StableHLO


def lower(function, *arguments, **static):
    """Return the StableHLO of a jitted function for CUDA; nothing is compiled."""
    traced = function.trace(*arguments, **static)
    return traced.lower(lowering_platforms=("cuda",)).as_text()


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


def make_network(spec):
    """Return a network with random variables."""
    names = tuple("abcde")
    variables = fixtures.random_variables(spec, 0)
    return Network(spec=spec, variables=variables, view=VIEW, class_names=names)


class _Called(Exception):
    """Ends a function at its first call of a jitted function."""


def _called_by(run):
    """Return the lowering of the jitted function that `run` makes and calls first."""
    lowerings, jit = [], jax.jit

    def recording(function):
        def call(*arguments, **named):
            lowerings.append(partial(lower, jit(function), *arguments, **named))
            raise _Called

        return call

    with mock.patch.object(jax, "jit", recording):
        with contextlib.suppress(_Called):
            run()
    (lowering,) = lowerings
    return lowering


def training(spec):
    """Yield the functions of the training and of the evaluation."""
    variables, canvas = models.shapes(spec), BATCHES["canvas"]
    images = array(BATCH, SIDE, SIDE, 3)
    features = jax.eval_shape(
        lambda v, x: models.features(spec, v, x), variables, images
    )
    batch_on_features = batch_of(features=features)
    step_on_features, arguments = training_step(spec, batch_on_features, True)
    name = "training/step.py: compile_step"
    yield name, partial(lower, step_on_features, *arguments), 0
    evaluator = Evaluator(spec, (VIEW,), BATCH, MESH, mirror=True)
    name, logits = "evaluation/evaluator.py: _logits.compute", evaluator.compute_logits
    yield name, partial(lower, logits, variables, canvas), 1
    yield name, partial(lower, logits, variables, {"features": features}), 0
    name = "evaluation/evaluator.py: Evaluator.compute_features.compute"
    yield name, partial(lower, evaluator.compute_features, variables, canvas), 1
    name = "experiment/head_features.py: make_draws.compute"
    draw = head_features.make_draws(evaluator, Augmentation(SIDE), KEY)(0)
    yield name, partial(lower, draw.func, *draw.args, variables, canvas), 1
    source, labels = Images(), np.zeros(COUNT, np.int32)
    loader = TrainLoader(ImageReader(source), labels, INDICES, BATCH, MESH, (0,))
    batches = resident.ResidentLoader(loader, resident.put(source, INDICES, MESH))
    taken = batches._examples, batches._order(0), jnp.int32(0)
    name = "data/resident.py: ResidentLoader._take"
    yield name, partial(lower, batches._take, *taken), 0
    # Random variables do not depend on the images, so the network is left out.
    for init in (models.init, models.init_head):
        name = f"models/functional.py: {init.__name__}"
        yield name, partial(lower, init, spec, KEY), 0
    votes = array(1, 2, dtype=jnp.bool_)
    name = "sharding/processes.py: Vote.__init__"
    yield name, partial(lower, processes.Vote()._count, votes), 0


def inference(spec):
    """Yield the functions of predictions and attribution maps."""
    network, variables = make_network(spec), models.shapes(spec)
    images, labels = array(BATCH, SIDE, SIDE, 3), array(BATCH, dtype=jnp.int32)
    sizes, keys = array(BATCH, 2, dtype=jnp.int32), jax.random.split(KEY, BATCH)
    name = "inference/network.py: Network.compute_logits.compute"
    yield name, partial(lower, network.compute_logits, variables, CANVAS, sizes), 1
    name = "inference/network.py: Network._view"
    yield name, partial(lower, network._view, CANVAS, sizes), 0
    name = "inference/explainer.py: Explainer.__init__"
    explainer = Explainer(network, ["grad_cam"])
    yield name, partial(lower, explainer._boxes, array(BATCH, SIDE, SIDE)), 0
    prepare = partial(lower, explainer._prepare, CANVAS, sizes, labels)
    yield f"{name}.prepare", prepare, 0
    bound = as_pytree(network.bind())
    logits = partial(lower, attribution_batch._logits, bound, images)
    yield "attribution/batch.py: _logits", logits, 1
    chosen = ("saliency", "grad_cam")
    arrays, constants = attribution_batch._split(chosen, {})
    explain = partial(
        lower,
        attribution_batch._explain,
        *(bound, images, labels, keys, arrays),
        methods=tuple((name, registry.find(name)) for name in chosen),
        layer=LAYER,
        constants=constants,
    )
    yield "attribution/batch.py: _explain", explain, 1
    contrast = partial(
        lower, Demo(network)._contrast, variables, images, labels, labels, LAYER
    )
    yield "report/demo.py: Demo._contrast.compute", contrast, 1


def jobs(spec):
    """Yield the functions of jobs over many images, and of the studies."""
    network, variables = make_network(spec), models.shapes(spec)
    images, labels = array(BATCH, SIDE, SIDE, 3), array(BATCH, dtype=jnp.int32)
    maps, keys = array(BATCH, SIDE, SIDE), jax.random.split(KEY, BATCH)
    name = "explain/closer.py: make_closer_look.compute"
    look = closer.make_closer_look(network)
    yield name, partial(lower, look, variables, BATCHES["canvas"]), 1
    name = "explain/scorer.py: Scorer.__init__"
    scores = scorer.Scorer(network, ["grad_cam"], None, None)
    scored = variables, images, maps, labels
    yield name, partial(lower, scores._compute_faithfulness, *scored), 1
    yield name, partial(lower, scores._compute_infidelity, *scored, keys), 1
    completeness = scores._compute_completeness
    yield name, partial(lower, completeness, variables, images, labels), 1
    (sensitivity,) = scores._compute_sensitivity
    yield name, partial(lower, sensitivity, variables, images, labels, keys), 1
    masks = array(BATCH, SIDE, SIDE, dtype=jnp.bool_)
    name = "explain/scorer.py: localise"
    yield name, partial(lower, scorer.localise, maps, masks), 0
    classify = _called_by(
        lambda: score.choose_correct(network, small.images(BATCH), 1, BATCH, 0)
    )
    yield "explain/score.py: choose_correct.classify", classify, 1
    moments = maximise._make_moments(network, VIEW)
    natural = jax.eval_shape(
        activation_max.statistics,
        jax.eval_shape(moments, variables, BATCHES["canvas"]),
    )
    name = "explain/maximise.py: _make_moments.compute"
    yield name, partial(lower, moments, variables, BATCHES["canvas"]), 1
    settings = maximise._Optimisation("robust", SIDE, 2, 1, BATCH)
    optimise = maximise._make_maximise(network, settings, print)
    # Forward passes of a step and of the last image, and gradients of the images.
    name = "explain/maximise.py: _make_maximise.maximise"
    yield name, partial(lower, optimise, variables, labels, KEY, natural), 3
    name = "explain/maximise.py: _make_classify.classify"
    classify = maximise._make_classify(network)
    yield name, partial(lower, classify, variables, images), 1
    name = "studies/directions.py: _make_layer_features.compute"
    layer = directions._make_layer_features(network, LAYER)
    yield name, partial(lower, layer, variables, BATCHES["canvas"]), 1
    name = "studies/directions.py: _make_crop_features.compute"
    boxed = batch_of(canvas=CANVAS, boxes=array(BATCH, 3))
    crops = directions._make_crop_features(network)
    yield name, partial(lower, crops, variables, boxed), 1

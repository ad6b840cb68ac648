"""Test what a GPU would compute: each jitted function, lowered for CUDA on a CPU."""

import ast
import pathlib
import re

import jax
import jax.numpy as jnp
import pytest
from jax.interpreters import mlir

import seeflower_jax
from seeflower_jax import models, records
from seeflower_jax.attribution import METHODS
from seeflower_jax.attribution.batch import make_explainer
from seeflower_jax.data.augmentation import Augmentation
from seeflower_jax.experiment import precision
from seeflower_jax.inference import export
from seeflower_jax.models import convolution
from seeflower_jax.models.windows import Windows
from tests import cuda, fixtures
from tests.cuda import (
    BATCH,
    BATCHES,
    DTYPES,
    KEY,
    SIDE,
    array,
    convolutions,
    count_kernels,
    lower,
    make_spec,
    training_step,
)

pytestmark = pytest.mark.long


def check_types(text, dtype, name=""):
    """Assert that all arrays of all convolutions have the type of the network."""
    types = {kind for kinds in convolutions(text) for kind in kinds}
    assert types <= {DTYPES[dtype]}, name


@pytest.mark.parametrize("dtype", DTYPES)
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
    check_types(text, dtype)
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


GENERATORS = (cuda.training, cuda.inference, cuda.jobs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("functions", GENERATORS)
def test_other_functions_have_plain_convolutions(functions, dtype, monkeypatch):
    # JAX asks for the backend of a callback, which only a TPU needs.
    monkeypatch.setattr(mlir.ModuleContext, "get_backend", lambda *_, **__: None)
    spec = make_spec(dtype=dtype)
    kernels = count_kernels(spec)
    for name, lowering, passes in functions(spec):
        text = lowering()
        found = len(convolutions(text))
        assert found >= passes * kernels, name
        assert bool(found) == bool(passes), name
        check_types(text, dtype, name)


@pytest.mark.parametrize("dtype", DTYPES)
def test_maps_have_plain_convolutions(dtype):
    """One function computes the maps of all attribution methods."""
    spec = make_spec(dtype=dtype)
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
    check_types(text, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_export_has_plain_convolutions(dtype, monkeypatch):
    monkeypatch.setattr(export, "PLATFORMS", ("cuda",))
    spec = make_spec(dtype=dtype)
    flat = dict(records.flat(models.shapes(spec), "/"))
    exported = jax.export.deserialize(export._serialize(cuda.make_network(spec), flat))
    text = exported.mlir_module()
    assert len(convolutions(text)) == count_kernels(spec)
    check_types(text, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_convolutions_outside_of_jit_are_plain(dtype):
    images, kernel = array(BATCH, 8, 8, 6, dtype=dtype), array(3, 3, 6, 6, dtype=dtype)
    windows = Windows((8, 8), (3, 3), padding=((1, 1), (1, 1)))
    arrays_by_primitive = {
        convolution._convolution: (images, kernel),
        convolution._input_gradient: (kernel, images),
        convolution._kernel_gradient: (images, images),
    }
    for primitive, arrays in arrays_by_primitive.items():
        text = lower(primitive.impl, *arrays, windows=windows)
        assert convolutions(text) == [[DTYPES[dtype]] * 3], primitive


# The functions that tests of their own lower.
LOWERED_ELSEWHERE = {
    "attribution/batch.py: make_explainer.compute",
    "inference/export.py: _serialize",
    "models/primitives.py: _primitive.evaluate",
}


def jitted(node, scope=""):
    """Yield the functions that `jax.jit` decorates, or that call it."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        scope = f"{scope}.{node.name}".lstrip(".")
    is_attribute = isinstance(node, ast.Attribute) and node.attr == "jit"
    if is_attribute or (isinstance(node, ast.alias) and node.name == "jit"):
        yield scope
    for child in ast.iter_child_nodes(node):
        yield from jitted(child, scope)


def test_jitted_functions_are_seen():
    source = (
        "import functools, jax\n"
        "@jax.jit\n"
        "def a(): pass\n"
        "class B:\n"
        "  def c(self):\n"
        "    @functools.partial(jax.jit, static_argnames='x')\n"
        "    def d(x): pass\n"
        "    return jax.jit(self.e)\n"
        "from jax import jit\n"
    )
    assert list(jitted(ast.parse(source))) == ["a", "B.c.d", "B.c", ""]


def test_every_jitted_function_is_lowered_here():
    """Add a new jitted function to a generator of tests/cuda.py."""
    folder = pathlib.Path(seeflower_jax.__file__).parent
    found = {
        f"{path.relative_to(folder).as_posix()}: {function}"
        for path in folder.rglob("*.py")
        if "comparison" not in path.parts  # measures other frameworks, too
        for function in jitted(ast.parse(path.read_text()))
    }
    spec = make_spec()
    lowered = {name for functions in GENERATORS for name, *_ in functions(spec)}
    assert found == lowered | LOWERED_ELSEWHERE

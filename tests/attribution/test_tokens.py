"""Vision transformers of Keras, Linen and Equinox: maps of tokens and of attention."""

import functools

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

from seeflower_jax import attribution as attr
from seeflower_jax.attribution import tokens
from seeflower_jax.comparison import transformers
from tests.attribution.adapters.hand_split import assert_close

HEIGHT, WIDTH, PATCH, DIM, HEADS, CLASSES = 16, 24, 8, 6, 2, 5
PATCHES = HEIGHT // PATCH * WIDTH // PATCH  # 2 rows, 3 columns
LABELS = jnp.array([1, 4])
SIZES = transformers.Sizes(HEIGHT, WIDTH, PATCH, DIM, HEADS, 2, CLASSES)


call = jax.jit(lambda network, images: network(images))
rollout_maps = jax.jit(attr.attention_rollout, static_argnames=("layers", "prefix"))
relevance_maps = jax.jit(attr.attention_relevance, static_argnames="layers")
grad_cam_maps = jax.jit(attr.grad_cam, static_argnames=("layer", "relu"))


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return jnp.array(rng.uniform(-1, 1, (2, HEIGHT, WIDTH, 3)), jnp.float32)


@pytest.fixture(scope="module")
def transformer():
    """Return a Keras transformer of two blocks with attention weights."""
    return transformers.keras_transformer(SIZES)


def _as_maps(tokens):
    return transformers.token_maps(tokens, SIZES)


@pytest.fixture(scope="module")
def network(transformer):
    return attr.from_keras(transformer)


@pytest.fixture(scope="module")
def layers(network):
    return transformers.attention_layers(network)


def test_attention_weights_are_layers(network, layers, transformer, images):
    expected = transformers.torch_attention(transformer, SIZES, images, LABELS)
    endpoints = call(network, images)[1]
    for layer, (weights, _) in zip(layers, expected, strict=True):
        assert_close(endpoints[layer], weights)
        assert network.layers[layer] == (HEADS, PATCHES + 1, PATCHES + 1)


def test_attention_rollout(network, layers, transformer, images):
    attention = transformers.torch_attention(transformer, SIZES, images, LABELS)
    expected = _as_maps(transformers.rollout(attention)[:, 0])
    assert_close(rollout_maps(network, images, layers=layers), expected)


def test_attention_relevance(network, layers, transformer, images):
    attention = transformers.torch_attention(transformer, SIZES, images, LABELS)
    expected = _as_maps(transformers.relevance(attention)[:, 0])
    maps = relevance_maps(network, images, LABELS, layers=layers)
    assert_close(maps, expected)
    other_maps = relevance_maps(network, images, layers=layers)
    assert not np.allclose(maps, other_maps)


def test_64_bit_mode_does_not_change_maps(network, layers, images):
    for method in (attr.attention_rollout, attr.attention_relevance):
        maps = method(network, images, LABELS, layers=layers)
        with jax.enable_x64(True):
            again = method(network, images, LABELS, layers=layers)
        assert again.dtype == np.float32
        np.testing.assert_allclose(again, maps, rtol=1e-6)


def test_class_activation_maps_of_tokens(network, transformer, images):
    """The layer is split by hand, with the residual connection as a second input."""
    grid = attr.tokens_to_grid(network)
    norm = transformer.get_layer("norm_1")
    upper = keras.Model([norm.input, norm.output], transformer.output)
    lower = keras.Model(transformer.input, [norm.input, norm.output])
    residual, activations = lower(images)

    def total_score(x):
        return upper([residual, x])[jnp.arange(2), LABELS].sum()

    gradients = jax.jit(jax.grad(total_score))(activations)
    weights = gradients[:, 1:].mean(1, keepdims=True)
    row = (weights * activations).sum(-1)
    maps = grad_cam_maps(grid, images, LABELS, layer="norm_1", relu=False)
    assert_close(maps, _as_maps(np.array(row)))
    assert grid.layers["norm_1"] == (2, 3, DIM)
    assert grid.layers["patches"] == (2, 3, DIM)
    assert grid.layers["head"] == (CLASSES,)


def test_ablation_keeps_the_class_token(network, transformer, images):
    """Each channel of the patches is set to 0 by hand, in the upper part."""
    norm = transformer.get_layer("norm_1")
    upper = keras.Model([norm.input, norm.output], transformer.output)
    lower = keras.Model(transformer.input, [norm.input, norm.output])
    residual, activations = lower(images)

    def score(x):
        return upper([residual, x])[jnp.arange(2), LABELS]

    full = score(activations)
    row = sum(
        ((full - score(activations.at[:, 1:, channel].set(0))) / abs(full))[:, None]
        * activations[..., channel]
        for channel in range(DIM)
    )
    grid = attr.tokens_to_grid(network)
    maps = attr.ablation_cam(grid, images, LABELS, layer="norm_1")
    assert_close(maps, _as_maps(np.maximum(row, 0)))


def test_ablation_of_a_network_of_single_images(images):
    weights = jax.random.normal(jax.random.key(0), (3, CLASSES))

    def logits(images):  # [n, h, w, 3] or [h, w, 3]
        *count, _, _, _ = images.shape
        patches = images[..., ::PATCH, ::PATCH, :].reshape(*count, PATCHES, 3)
        x = jnp.concatenate([jnp.ones((*count, 1, 3)), patches], -2)
        x = checkpoint_name(x, "tokens")
        attention = jax.nn.softmax(x @ x.swapaxes(-2, -1))
        return (attention @ x)[..., 0, :] @ weights

    maps, expected = (
        attr.ablation_cam(attr.tokens_to_grid(network), images, LABELS, layer="tokens")
        for network in (
            attr.from_function(logits, single=True),
            attr.from_function(logits),
        )
    )
    assert np.ptp(expected) > 0
    np.testing.assert_allclose(maps, expected, rtol=1e-4, atol=1e-6)


def test_grid_of_a_plain_function(images):
    def function(images, taps=None):
        patches = images[:, ::PATCH, ::PATCH].reshape(len(images), -1, 3)
        patches = patches + (taps or {}).get("tokens", 0)
        return (patches**2).mean(1), {"tokens": patches}

    grid = attr.tokens_to_grid(function, prefix=0)
    (maps,) = attr.explain(grid, images, ["grad_cam"], layer="tokens").values()
    expected = attr.grad_cam(grid, images, layer="tokens")
    assert np.ptp(expected) > 0
    np.testing.assert_allclose(maps, expected, rtol=1e-4, atol=1e-6)


def test_head_of_a_transformer_is_refused(network, images):
    with pytest.raises(ValueError, match="is its class token, which has no place"):
        attr.explain(attr.tokens_to_grid(network), images, ["grad_cam"], LABELS)


@pytest.mark.parametrize("method", ["grad_cam", "eigen_cam", "score_cam"])
@pytest.mark.parametrize("align", ["receptive_field", "stretch"])
@pytest.mark.parametrize("layer", ["head", "attention"])
def test_tokens_and_heads_are_no_rows_and_columns(method, align, layer):
    def heads(images, taps=None):
        tokens = images.reshape(len(images), 64, 4, -1)
        tokens = tokens + (taps or {}).get("attention", 0)
        return tokens.mean((1, 2)), {"attention": tokens}

    with pytest.raises(ValueError, match="'attention', 64 by 4, are not .*to_grid"):
        getattr(attr, method)(heads, jnp.ones((1, 64, 64, 3)), layer=layer, align=align)


def test_cells_of_a_network_may_be_long():
    def function(images, taps=None):
        wide = images[:, :, ::8] + (taps or {}).get("wide", 0)
        return (wide**2).mean((1, 2)), {"wide": wide}

    images = jax.random.uniform(jax.random.key(0), (1, 64, 64, 3))
    assert attr.grad_cam(function, images, layer="wide").shape == (1, 64, 64)


@pytest.mark.parametrize(
    "options,hint",
    [
        (None, "for the tokens of a transformer, use tokens_to_grid"),
        ({"prefix": 0}, "its 17 tokens do not fit the image: pass `prefix`"),
        ({"grid": (3, 5)}, "its 17 tokens do not fit the image: pass `prefix`"),
    ],
)
def test_tokens_without_a_grid_are_refused(options, hint):
    def transformer(images, taps=None):
        tokens = jnp.zeros((len(images), 1 + 4 * 4, 8)) + (taps or {}).get("block", 0)
        return tokens[:, 0], {"block": tokens}

    network = transformer
    if options is not None:
        network = attr.tokens_to_grid(transformer, **options)
    with pytest.raises(ValueError, match=hint):
        attr.grad_cam(network, jnp.ones((1, 64, 64, 3)), layer="block")


def _named_attention(query, key, value, mask=None):
    """Attend as Flax does, with a name for the weights."""
    weights = nn.dot_product_attention_weights(query, key, mask=mask)
    weights = checkpoint_name(weights, "attention")
    return jnp.einsum("...hqk,...khd->...qhd", weights, value)


class LinenTransformer(nn.Module):
    """A transformer that averages its patches, without a class token."""

    sow: bool = False

    @nn.compact
    def __call__(self, images):
        x = nn.Conv(DIM, (PATCH, PATCH), PATCH)(images).reshape(len(images), -1, DIM)
        for _ in range(2):
            function = nn.dot_product_attention if self.sow else _named_attention
            attend = nn.MultiHeadDotProductAttention(HEADS, attention_fn=function)
            x = x + attend(nn.LayerNorm()(x), sow_weights=self.sow)
        return nn.Dense(CLASSES)(x.mean(1))


def test_attention_that_a_user_names(images):
    """Flax' own record of attention weights is the reference."""
    variables = jax.jit(LinenTransformer().init)(jax.random.key(0), images)
    network = attr.from_linen(LinenTransformer(), variables)
    logits, endpoints = call(network, images)
    module = LinenTransformer(sow=True)
    apply = jax.jit(functools.partial(module.apply, mutable="intermediates"))
    expected, record = apply(variables, images)
    assert_close(logits, expected)
    layers = ("attention", "attention#2")
    rollout = np.eye(PATCHES)
    for layer, values in zip(layers, record["intermediates"].values(), strict=True):
        (weights,) = values["attention_weights"]
        assert_close(endpoints[layer], weights)
        rollout = (weights.mean(1) + np.eye(PATCHES)) / 2 @ rollout
    maps = rollout_maps(network, images, layers=layers, prefix=0)
    row = jnp.pad(rollout.mean(1), ((0, 0), (1, 0)))
    assert_close(maps, _as_maps(np.array(row, np.float32)))


class EquinoxTransformer(eqx.Module):
    """A block of attention on patches after a class token, channels first."""

    patches: eqx.nn.Conv2d
    query: eqx.nn.Linear
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.patches = eqx.nn.Conv2d(3, DIM, PATCH, PATCH, key=keys[0])
        self.query = eqx.nn.Linear(DIM, DIM, key=keys[1])
        self.head = eqx.nn.Linear(DIM, CLASSES, key=keys[2])

    def weights(self, x):
        query = jax.vmap(self.query)(x).reshape(-1, HEADS, DIM // HEADS)
        return jax.nn.softmax(jnp.einsum("qhd,khd->hqk", query, query))

    def tokens(self, image):
        x = self.patches(image).reshape(DIM, -1).T
        return jnp.concatenate([jnp.zeros((1, DIM)), x])

    def __call__(self, image):
        x = self.tokens(image)
        weights = checkpoint_name(self.weights(x), "attention")
        return self.head((weights.mean(0) @ x)[0])


def test_attention_with_channels_first(images):
    model = EquinoxTransformer(jax.random.key(0))
    network = attr.from_equinox(model)
    assert call(network, images)[1]["patches"].shape == (2, 2, 3, DIM)
    attention = jax.jit(jax.vmap(lambda image: model.weights(model.tokens(image))))
    weights = attention(jnp.moveaxis(images, -1, 1))
    rollout = (weights.mean(1) + np.eye(PATCHES + 1)) / 2
    maps = rollout_maps(network, images, layers=("attention",))
    assert_close(maps, _as_maps(np.array(rollout[:, 0])))


def test_register_tokens_are_left_out():
    def transformer(images, taps=None):
        patches = images[:, ::8, ::8].reshape(len(images), -1, 3)
        x = jnp.concatenate([jnp.full((len(images), 3, 3), 9.0), patches], 1)
        x = x + (taps or {}).get("tokens", 0)
        return x.sum(1), {"tokens": x, "logits": x.sum(1)}

    images = jnp.arange(2 * 16 * 24 * 3, dtype=jnp.float32).reshape(2, 16, 24, 3)
    network = attr.tokens_to_grid(transformer, prefix=3)
    logits, endpoints = network(images)
    np.testing.assert_array_equal(endpoints["tokens"], images[:, ::8, ::8])
    assert endpoints["logits"].shape == (2, 3)
    tap = jnp.zeros((2, 2, 3, 3)).at[0, 1, 2, 0].set(5.0)
    gain = network(images, {"tokens": tap})[0] - logits
    np.testing.assert_array_equal(gain, [[5, 0, 0], [0, 0, 0]])
    for options in ({"prefix": 2}, {"prefix": 3, "grid": (2, 2)}):
        endpoints = attr.tokens_to_grid(transformer, **options)(images)[1]
        assert endpoints["tokens"].shape == (2, 9, 3)
    tall = attr.tokens_to_grid(transformer, prefix=3, grid=(3, 2))
    assert tall(images)[1]["tokens"].shape == (2, 3, 2, 3)
    with pytest.raises(ValueError, match="a plain function does not know"):
        _ = tall.layers
    assert tall.hidden_layers == {}


def test_registers_without_a_class_token(images):
    """The head averages the patches, so the maps are means over their rows."""
    rng, registers = np.random.default_rng(0), 4
    count = registers + PATCHES
    weights = rng.dirichlet(np.ones(count), (2, 2, HEADS, count)).astype(np.float32)
    values = jnp.array(rng.normal(size=(count, CLASSES)), jnp.float32)

    def network(images, taps=None):
        taps, x = taps or {}, values
        first, second = (jnp.array(weights[i]) + taps.get(f"a{i}", 0) for i in range(2))
        x = second.mean(1) @ (first.mean(1) @ x)
        patches = (x + taps.get("tokens", 0))[:, registers:]
        return patches.mean(1), {"a0": first, "a1": second, "tokens": x}

    options = {"layers": ["a0", "a1"], "prefix": registers, "class_token": False}
    mixed = (weights.mean(2) + np.eye(count)) / 2
    rollout = (mixed[1] @ mixed[0])[:, registers:].mean(1)
    maps = attr.attention_rollout(network, images, **options)
    assert_close(maps, _as_maps(rollout[:, registers - 1 :]))

    target = np.array(values)[:, np.array(LABELS)].T  # [n, t]
    rows = np.r_[np.zeros(registers), np.full(PATCHES, 1 / PATCHES)]
    below = (weights[0].mean(1) @ target[..., None])[..., 0]
    slopes = (
        np.einsum("nq,nk->nqk", rows @ weights[1].mean(1), target),
        np.einsum("q,nk->nqk", rows, below),
    )
    relevance = np.eye(count)
    for weight, slope in zip(weights, slopes, strict=True):
        gain = np.maximum(weight * slope[:, None] / HEADS, 0).mean(1)
        relevance = relevance + gain @ relevance
    row = relevance[:, registers:].mean(1)
    maps = attr.attention_relevance(network, images, LABELS, **options)
    assert_close(maps, _as_maps(row[:, registers - 1 :]))

    grid = attr.tokens_to_grid(network, prefix=registers, class_token=False)
    maps = attr.grad_cam(grid, images, LABELS, layer="head")
    assert_close(maps, attr.grad_cam(grid, images, LABELS, layer="tokens"))


def test_errors(network, layers, images):
    with pytest.raises(ValueError, match="layers is empty"):
        attr.attention_rollout(network, images, layers=[])
    with pytest.raises(ValueError, match="softmx' is unknown.*did you mean"):
        attr.attention_rollout(network, images, layers=["attention_0/softmx"])
    with pytest.raises(ValueError, match=r"'norm_0' has .* \(2, 7, 6\); expected"):
        attr.attention_relevance(network, images, layers=["norm_0"])
    with pytest.raises(ValueError, match="7 patches, all but the first 0 tokens"):
        attr.attention_rollout(network, images, layers=layers, prefix=0)
    with pytest.raises(ValueError, match=r"do not fill a grid \(2, 2\); set"):
        attr.attention_relevance(network, images, layers=layers, grid=(2, 2))
    assert tokens.grid_shape(0, images) is None

"""Maps of a pair of networks by the equations of papers, in PyTorch.

    maps = xgrad_cam(pair)    # [N, H, W]

The network is split at the layer by hand.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax
import numpy as np
import torch
from jaxtyping import Float

from seeflower_jax.attribution import random_masks
from seeflower_jax.comparison.attribution_speed import BASELINE
from seeflower_jax.comparison.captum_references import Maps
from seeflower_jax.comparison.pairs import Pair, resize, to_torch

Activations: TypeAlias = Float[torch.Tensor, "n k h w"]
RISE_SAMPLES, RISE_CELLS, RISE_VISIBLE = 16, 4, 0.5
SCORE_CHANNELS = 16
FINER_REFERENCES, FINER_STRENGTH = 3, 0.6


def _gradients(pair: Pair) -> tuple[Activations, Activations]:
    """Return the activations of the layer and the gradients of the scores there."""
    y = pair.activations()
    (gradients,) = torch.autograd.grad(pair.score_from(y).sum(), y)
    return y.detach(), gradients


def of_layer(
    weigh: Callable[[Activations, Activations], Maps], relu: bool = True
) -> Callable[[Pair], Maps]:
    """Return the reference of a class activation map.

    Args:
      weigh: computes a map from the activations and gradients of the layer.
      relu: whether negative values become 0.
    """

    def maps(pair: Pair) -> Maps:
        of_cells = weigh(*_gradients(pair))
        return resize(of_cells.relu() if relu else of_cells, pair)

    return maps


def _plus_plus(y: Activations, gradients: Activations) -> Maps:
    """Chattopadhay et al. 2018, equations 5, 6 and 19."""
    total = y.sum((2, 3), keepdim=True)
    denominator = 2 * gradients**2 + total * gradients**3
    alpha = torch.where(denominator == 0, 0, gradients**2 / denominator)
    weights = (alpha * gradients.relu()).sum((2, 3), keepdim=True)
    return (weights * y).sum(1)


def _axiom_based(y: Activations, gradients: Activations) -> Maps:
    """Fu et al. 2020, equation 8, with the 1e-7 of pytorch-grad-cam."""
    sums = y.sum((2, 3), keepdim=True)
    weights = (gradients * y / (sums + 1e-7)).sum((2, 3), keepdim=True)
    return (weights * y).sum(1)


grad_cam_plus_plus = of_layer(_plus_plus)
xgrad_cam = of_layer(_axiom_based)
layer_cam = of_layer(lambda y, gradients: (gradients.relu() * y).sum(1))
hires_cam = of_layer(lambda y, gradients: (gradients * y).sum(1), relu=False)


def eigen_cam(pair: Pair) -> Maps:
    """Muhammad and Yeasin 2020, equations 3 and 4, with a positive sum and ReLU."""
    y = pair.activations().detach()
    projections = []
    for activations in y.flatten(2):
        u, s, _ = torch.linalg.svd(activations.T, full_matrices=False)
        projections.append(u[:, 0] * s[0] * torch.sign(u[:, 0].sum()))
    return resize(torch.stack(projections).relu().reshape(y[:, 0].shape), pair)


def finer_cam(pair: Pair) -> Maps:
    """Grad-CAM of the score of the authors' code, a weighted mean of differences."""
    y = pair.activations()
    total = torch.zeros(())
    for row, target in zip(pair.logits_from(y), pair.targets, strict=True):
        order = (row - row[target]).abs().argsort().tolist()
        similar = [i for i in order if i != target][:FINER_REFERENCES]
        shares = row.softmax(0)[similar]
        differences = row[target] - FINER_STRENGTH * row[similar]
        total = total + (shares * differences).sum() / shares.sum()
    (gradients,) = torch.autograd.grad(total, y)
    maps = (gradients.mean((2, 3), keepdim=True) * y.detach()).sum(1)
    return resize(maps.relu(), pair)


def ablation_cam(pair: Pair) -> Maps:
    """Desai and Ramaswamy 2020: drops of the score, over its magnitude."""
    with torch.no_grad():
        y = pair.activations()
        full, weights = pair.score_from(y), []
        for channel in range(y.shape[1]):
            ablated = y.clone()
            ablated[:, channel] = 0
            weights.append((full - pair.score_from(ablated)) / full.abs())
        maps = torch.einsum("cn,nchw->nhw", torch.stack(weights), y)
    return resize(maps.relu(), pair)


def score_cam(pair: Pair) -> Maps:
    """Wang et al. 2020, algorithm 1, with hidden pixels of `BASELINE`."""
    with torch.no_grad():
        images, y = pair.tensor(), pair.activations()
        count = min(SCORE_CHANNELS, y.shape[1])
        chosen = y.var((2, 3)).topk(count).indices[..., None, None]
        y = y.take_along_dim(chosen, 1)
        scores = []
        for channel in y.unbind(1):
            mask = resize(channel, pair)
            low, high = (f((1, 2), keepdim=True) for f in (mask.amin, mask.amax))
            mask = torch.where(high > low, (mask - low) / (high - low), 0)[:, None]
            scores.append(pair.score(BASELINE + (images - BASELINE) * mask))
        weights = torch.stack(scores).softmax(0)
        return resize(torch.einsum("cn,nchw->nhw", weights, y).relu(), pair)


def full_grad(pair: Pair) -> Maps:
    """Srinivas and Fleuret 2019, equation 6, with the scale of the authors' code."""
    inputs = pair.torch_network.preprocess(to_torch(pair.images)).requires_grad_()
    zeros: list[torch.Tensor] = []

    def add_zeros(module, arguments, output):
        zeros.append(torch.zeros_like(output, requires_grad=True))
        return output + zeros[-1]

    layers = pair.torch_network.layers
    convolutions = [m for m in layers if isinstance(m, torch.nn.Conv2d)]
    handles = [layer.register_forward_hook(add_zeros) for layer in convolutions]
    logits = pair.torch_network.head(layers(inputs).mean((2, 3)))
    for handle in handles:
        handle.remove()
    scores = logits.gather(1, pair.torch_targets[:, None])
    of_input, *of_biases = torch.autograd.grad(scores.sum(), [inputs, *zeros])
    total = _scaled(of_input * inputs.detach(), pair)
    for gradients, layer in zip(of_biases, convolutions, strict=True):
        bias = layer.get_parameter("bias").detach()
        total += _scaled(gradients * bias.view(-1, 1, 1), pair)
    return total


def _scaled(terms: Activations, pair: Pair) -> Maps:
    """Scale the magnitudes of the terms of an operation to [0, 1], and add them."""
    terms = terms.abs()
    low, high = (f((1, 2, 3), keepdim=True) for f in (terms.amin, terms.amax))
    return resize(((terms - low) / (high - low)).sum(1), pair)


def rise(pair: Pair) -> Maps:
    """Petsiuk et al. 2018, equation 6, less the mean score, with the same masks."""
    size = pair.images.shape[1:3]
    draw = jax.vmap(
        lambda key, sample: random_masks.draw_mask(
            jax.random.fold_in(key, sample), size, RISE_CELLS, RISE_VISIBLE
        ),
        (0, None),
    )
    images, scores, masks = pair.tensor(), [], []
    with torch.no_grad():
        for sample in range(RISE_SAMPLES):
            mask = torch.tensor(np.array(draw(pair.keys, sample)))
            masked = BASELINE + (images - BASELINE) * mask[:, None]
            scores.append(pair.score(masked).double())
            masks.append(mask.double())
        differences = torch.stack(scores) - torch.stack(scores).mean(0)
        total = torch.einsum("sn,snhw->nhw", differences, torch.stack(masks))
    return total / ((RISE_SAMPLES - 1) * RISE_VISIBLE)

"""Maps of every attribution method compared with captum or with an equation.

    pair = pairs.make_pair(spec, variables, images, targets)
    for name, figures in compare(pair):
        figures["relative_difference"]     # max |difference| / max |reference|

Both sides have the same variables, images, options and random draws. Class activation
maps are stretched over the image, as other libraries do.

In float32, gradients at pixels differ where rounding decides which value is the maximum
of a pooling, or whether a ReLU passes a value. In float64, this is rare. For VGG16 at
112 pixels, captum's saliency in float32 differs by 6.4e-4 from captum's in float64, and
by 6.4e-4 from this package's.
"""

import dataclasses
import functools
import importlib.metadata
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Num

from seeflower_jax import models
from seeflower_jax.attribution import registry
from seeflower_jax.attribution.rules import alpha_beta, by_depth, epsilon, gamma
from seeflower_jax.comparison import attribution_speed, captum_references
from seeflower_jax.comparison import formula_references as formulas
from seeflower_jax.comparison.captum_references import Maps, shared
from seeflower_jax.comparison.pairs import Pair, make_pair
from seeflower_jax.pretrained import loading, published

CAPTUM, FORMULA = "captum", "equation in PyTorch"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A method, its reference, and what of them is compared.

    Attributes:
      reference: computes the maps of the reference.
      convention: what is compared, in a few words.
      against: `CAPTUM` or `FORMULA`.
      method: a key of `registry.METHODS`; the name of the comparison by default.
      options: returns the options of the method for a pair.
    """

    reference: Callable[[Pair], Maps]
    convention: str
    against: str = CAPTUM
    method: str = ""
    options: Callable[[Pair], Mapping[str, Any]] = lambda pair: {}


def _fixed(**options: Any) -> Callable[[Pair], Mapping[str, Any]]:
    return lambda pair: options


def _lrp(rule: Callable, depth: float = 1.0) -> Callable[[Pair], Mapping[str, Any]]:
    """Return the options of LRP for the rules of `captum_references.lrp`."""

    def options(pair: Pair) -> Mapping[str, Any]:
        end = epsilon(captum_references.LRP_EPSILON)
        count = captum_references.linear_layers(pair)
        last = min(depth, 1 - 1 / count)
        return {"rule": by_depth((1 / count, end), (last, rule), (1.0, end))}

    return options


_NOISE = {"samples": captum_references.SAMPLES, "noise": captum_references.NOISE}
_COLOURS = "gradient per pixel value, largest magnitude of the colours"
_SUM = "summed over colours"
_CELLS = "stretched over the image"
_BIAS = "captum with rules that also change biases"

COMPARISONS: dict[str, Comparison] = {
    "saliency": Comparison(shared("saliency"), _COLOURS),
    "signed_saliency": Comparison(
        captum_references.signed_saliency, f"gradient per pixel value, {_SUM}"
    ),
    "guided_saliency": Comparison(shared("guided_saliency"), _COLOURS),
    "deconvnet_saliency": Comparison(shared("deconvnet_saliency"), _COLOURS),
    "paper_saliency": Comparison(
        captum_references.paper_saliency, f"softmax probability; {_COLOURS}"
    ),
    "input_x_gradient": Comparison(
        shared("input_x_gradient"),
        f"baseline 0, {_SUM}",
        options=_fixed(baseline=0.0),
    ),
    "smooth_grad": Comparison(
        captum_references.noise_tunnel("smoothgrad"),
        f"same noise; {_COLOURS}",
        options=_fixed(**_NOISE),
    ),
    "smooth_grad_squared": Comparison(
        captum_references.noise_tunnel("smoothgrad_sq"),
        f"same noise; {_COLOURS}",
        options=_fixed(**_NOISE),
    ),
    "var_grad": Comparison(
        captum_references.noise_tunnel("vargrad"),
        f"same noise; {_COLOURS}",
        options=_fixed(**_NOISE),
    ),
    "integrated_gradients": Comparison(
        shared("integrated_gradients"),
        f"points of Gauss-Legendre quadrature, {_SUM}",
        options=_fixed(steps=attribution_speed.STEPS, spacing=1.0),
    ),
    "gradient_shap": Comparison(
        captum_references.gradient_shap,
        f"same draws, {_SUM}",
        options=lambda pair: {
            **_NOISE,
            "baselines": captum_references.other_images(pair),
        },
    ),
    "full_grad": Comparison(
        formulas.full_grad, "each operation scaled to [0, 1], summed", FORMULA
    ),
    "deep_lift": Comparison(
        captum_references.deep_lift,
        f"rescale rule, baseline another image, {_SUM}; captum with a copy before "
        "each pooling, one image at a time",
        options=lambda pair: {"baseline": captum_references.other_images(pair)},
    ),
    "lrp": Comparison(
        captum_references.lrp("gamma", 0.5),
        f"gamma in the lower half, epsilon elsewhere; {_SUM}; {_BIAS}",
        options=_lrp(gamma(captum_references.LRP_GAMMA), 0.5),
    ),
    "lrp_epsilon": Comparison(
        captum_references.lrp("epsilon"),
        f"epsilon in all layers, {_SUM}",
        method="lrp",
        options=_lrp(epsilon(captum_references.LRP_EPSILON)),
    ),
    "lrp_gamma": Comparison(
        captum_references.lrp("gamma"),
        f"gamma in all layers but the first and the last; {_SUM}; {_BIAS}",
        method="lrp",
        options=_lrp(gamma(captum_references.LRP_GAMMA)),
    ),
    "lrp_alpha_beta": Comparison(
        captum_references.lrp("alpha_beta"),
        f"alpha 1, beta 0 in all layers but the first and the last; {_SUM}; {_BIAS}",
        method="lrp",
        options=_lrp(alpha_beta(1.0, 0.0)),
    ),
    "occlusion": Comparison(
        captum_references.occlusion,
        "windows that fit the image; mean drop of the score",
        options=captum_references.occlusion_windows,
    ),
    "feature_ablation": Comparison(
        captum_references.feature_ablation,
        "drop of the score for each cell of a grid",
        options=_fixed(cells=captum_references.ABLATION_CELLS),
    ),
    "kernel_shap": Comparison(
        captum_references.kernel_shap,
        "all coalitions of three stripes; captum's exact Shapley values",
        options=lambda pair: {
            "segments": captum_references.stripes(pair),
            "samples": 6,
        },
    ),
    "rise": Comparison(
        formulas.rise,
        "same masks, logits, mean score subtracted",
        FORMULA,
        options=_fixed(
            samples=formulas.RISE_SAMPLES,
            cells=formulas.RISE_CELLS,
            visible=formulas.RISE_VISIBLE,
        ),
    ),
    "grad_cam": Comparison(shared("grad_cam"), f"{_CELLS}, after ReLU"),
    "grad_cam_plus_plus": Comparison(
        formulas.grad_cam_plus_plus, f"{_CELLS}, after ReLU", FORMULA
    ),
    "xgrad_cam": Comparison(
        formulas.xgrad_cam,
        f"{_CELLS}, after ReLU; pytorch-grad-cam's weights",
        FORMULA,
    ),
    "layer_cam": Comparison(formulas.layer_cam, f"{_CELLS}, after ReLU", FORMULA),
    "hires_cam": Comparison(formulas.hires_cam, f"{_CELLS}, signed", FORMULA),
    "layer_conductance": Comparison(
        captum_references.layer_conductance,
        f"{_CELLS}, signed; mean of captum's path in both directions",
        options=lambda pair: {
            "baseline": captum_references.other_images(pair),
            "steps": captum_references.CONDUCTANCE_STEPS,
            "spacing": 1.0,
        },
    ),
    "eigen_cam": Comparison(
        formulas.eigen_cam,
        f"{_CELLS}; not centred, unlike pytorch-grad-cam; positive sum, then ReLU",
        FORMULA,
    ),
    "score_cam": Comparison(
        formulas.score_cam,
        f"{_CELLS}; the {formulas.SCORE_CHANNELS} channels that vary most; hidden "
        "pixels are grey, in pytorch-grad-cam the mean colour",
        FORMULA,
        options=_fixed(channels=formulas.SCORE_CHANNELS),
    ),
    "ablation_cam": Comparison(
        formulas.ablation_cam,
        f"{_CELLS}; drop over the magnitude of the score, in pytorch-grad-cam over "
        "the score",
        FORMULA,
        options=_fixed(batch_size=8),
    ),
    "finer_cam": Comparison(
        formulas.finer_cam, f"{_CELLS}; the score of the authors' code", FORMULA
    ),
    "guided_grad_cam": Comparison(
        shared("guided_grad_cam"), f"{_CELLS}; largest magnitude of the colours"
    ),
}


def load_pair(
    images: Num[np.ndarray, "n h w 3"], weights: str = ""
) -> tuple[Pair, str]:
    """Return VGG16 in both frameworks, and the name of its weight file.

    The maps explain the predicted classes of a random classifier.

    Args:
      images: RGB in [0, 255]. If they are float64, the networks compute in float64,
        which needs the 64-bit mode of JAX; otherwise in float32.
      weights: a folder with Keras' `notop` file. '' gives random variables, and the
        name 'random'.

    Raises:
      WeightFileError: if the folder has no such file.
    """
    spec = models.get_spec("vgg16", num_classes=102, pooling="average")
    name = published.CATALOG["vgg16"].name if weights else ""
    path = str(pathlib.Path(weights).expanduser() / name) if weights else ""
    spec, variables, _ = loading.load_pretrained(spec, path)
    floats = images.astype(np.result_type(images, np.float32))
    logits = jax.jit(functools.partial(models.apply, spec))(variables, floats)[0]
    targets = np.asarray(logits.argmax(-1), np.int64)
    return make_pair(spec, variables, floats, targets), name or "random"


def compare(
    pair: Pair, names: Iterable[str] | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (name, figures) of comparisons.

    The figures are `against`, `correlation`, `relative_difference`, `images` and
    `convention`. The correlation is the least of all images. The relative difference is
    the largest of all images, see `of_map`.

    Args:
      pair: the networks and images.
      names: keys of `COMPARISONS`; all by default.

    Raises:
      ValueError: if a map has the same value everywhere; the message names the method.
    """
    version = importlib.metadata.version("captum")
    for name in COMPARISONS if names is None else names:
        comparison = COMPARISONS[name]
        reference = comparison.reference(pair).detach().numpy()
        maps = compute(pair, name)
        if not all(np.ptp(values, (1, 2)).all() for values in (maps, reference)):
            raise ValueError(
                f"a map of {name} has the same value everywhere, so it has no "
                "correlation; give several different images, or a larger size"
            )
        is_captum = comparison.against == CAPTUM
        against = f"captum {version}" if is_captum else comparison.against
        yield name, of_maps(maps, reference, against, comparison.convention)


def compute(pair: Pair, name: str) -> Float[np.ndarray, "n h w"]:
    """Return the maps of this package, of a key of `COMPARISONS`."""
    comparison = COMPARISONS[name]
    method = registry.METHODS[comparison.method or name]
    options = dict(comparison.options(pair))
    if method.layered:
        options |= {"layer": pair.layer, "align": "stretch"}
    if method.random:
        options["keys"] = pair.keys
    run = jax.jit(functools.partial(method.function, **options))
    arguments = jnp.asarray(pair.images), jnp.asarray(pair.targets)
    return np.asarray(run(pair.network, *arguments))


def of_maps(
    maps: Float[np.ndarray, "n h w"],
    reference: Float[np.ndarray, "n h w"],
    against: str,
    convention: str,
) -> dict[str, Any]:
    """Return the figures of a comparison, see `compare`."""
    figures = [of_map(*both) for both in zip(maps, reference, strict=True)]
    return {
        "against": against,
        "correlation": min(correlation for correlation, _ in figures),
        "relative_difference": max(difference for _, difference in figures),
        "images": len(maps),
        "convention": convention,
    }


def of_map(
    actual: Float[np.ndarray, "h w"], expected: Float[np.ndarray, "h w"]
) -> tuple[float, float]:
    """Return the correlation of two maps and their relative difference.

    The difference is the largest of a pixel, divided by the largest expected magnitude.
    """
    correlation = np.corrcoef(actual.ravel(), expected.ravel())[0, 1]
    difference = np.abs(actual - expected).max() / np.abs(expected).max()
    return float(correlation), float(difference)


def text(figures_by_name: Mapping[str, Mapping[str, Any]]) -> str:
    """Format the figures of `compare` for a terminal.

    `relative_difference_float64`, where it is among them, is that of float64.
    """
    lines = [f"{'method':22}{'correlation':>12}{'float32':>10}{'float64':>10}  against"]
    for name, figures in figures_by_name.items():
        correlation = f"{figures['correlation']:.6f}"
        difference = f"{figures['relative_difference']:.1e}"
        exact = figures.get("relative_difference_float64")
        double = "" if exact is None else f"{exact:.1e}"
        row = f"{name:22}{correlation:>12}{difference:>10}{double:>10}"
        lines.append(f"{row}  {figures['against']}")
    return "\n".join(lines)

"""A web page that predicts and explains the images that users drop on it.

    demo.page(network).launch(**demo.PRIVATE)

The page needs Gradio: `pip install seeflower_jax[demo]`. `PRIVATE` keeps the page on
this machine, without requests to other servers.
"""

import dataclasses
import functools
import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from seeflower_jax.attribution import batch, layers, registry, targets
from seeflower_jax.figures import maps
from seeflower_jax.inference.network import Network, class_index
from seeflower_jax.models.functional import endpoint_shapes

if TYPE_CHECKING:
    import gradio

DEFAULT_LAYER = "default"
PREDICTED, NO_CLASS = "predicted class", "no class"
MAX_FILE_SIZE = "30mb"
METHOD = "grad_cam"  # the default, and the method of the third map
_TOP = 5


Captioned = tuple[UInt8[np.ndarray, "s s 3"], str]


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
    """What the page shows for an image.

    Attributes:
      probabilities: calibrated probabilities of the most probable classes.
      image: what the network sees of the image, and its caption.
      first: overlay of the map of the first class, and its caption.
      second: overlay of the map of the second class, if there is one.
      contrast: overlay of the evidence for the first class and not for the second.
    """

    probabilities: dict[str, float]
    image: Captioned
    first: Captioned
    second: Captioned | None = None
    contrast: Captioned | None = None


class Demo:
    """Predictions and maps of one network, compiled once for each choice of a user.

    Args:
      network: network from `seeflower_jax.load`.
    """

    def __init__(self, network: Network):
        self.network = network

    @functools.cached_property
    def layers(self) -> list[str]:
        """The layers that a class activation map can have, the default first."""
        endpoints = endpoint_shapes(self.network.spec, self.network.view.size)
        return [DEFAULT_LAYER, layers.HEAD, *layers.spatial_layers(endpoints)]

    def answer(
        self,
        path: str | os.PathLike,
        method: str = METHOD,
        layer: str = DEFAULT_LAYER,
        first: str = PREDICTED,
        second: str = NO_CLASS,
    ) -> Answer:
        """Predict and explain an image.

        Args:
          path: the image file.
          method: attribution method of the maps of both classes.
          layer: layer of class activation maps; other methods have none.
          first: name of a class, or `PREDICTED`.
          second: name of a class to compare with, `PREDICTED` or `NO_CLASS`.

        Raises:
          UnreadableImage: if the file is not an image.
          ValueError: if the method does not fit the layer.
        """
        chosen = None if layer == DEFAULT_LAYER else layer

        def explain(name: str):
            target = "predicted" if name == PREDICTED else name
            found = self.network.explain(path, method, target, chosen)
            return found, (np.asarray(found.overlay()), f"{method}: {found.target}")

        explanation, shown = explain(first)
        prediction = explanation.prediction
        probabilities = dict(
            zip(prediction.classes, prediction.probabilities, strict=True)
        )
        image = explanation.image
        seen = image, "what the network sees"
        if second == NO_CLASS:
            return Answer(probabilities, seen, shown)
        other, other_shown = explain(second)
        network = self.network
        values = self._contrast(
            network.variables,
            image[None],
            *(self._index(e.target) for e in (explanation, other)),
            layer=chosen or batch.map_layer(network.spec, network.view.size),
        )
        contrast = maps.overlay(image, np.asarray(values)[0], signed=False)
        caption = f"{explanation.target}, and not {other.target}"
        return Answer(probabilities, seen, shown, other_shown, (contrast, caption))

    def _index(self, name: str) -> Int[np.ndarray, "1"]:
        return np.array([class_index(name, self.network.class_names, ())])

    @functools.cached_property
    def _contrast(self) -> Callable[..., Float[Array, "n s s"]]:
        """Return a jitted function, compiled once for each layer."""

        @functools.partial(jax.jit, static_argnames="layer")
        def compute(variables, images, classes, others, layer):
            score = targets.difference(classes, others)
            method = registry.METHODS[METHOD].function
            return method(self.network.bind(variables), images, score, layer=layer)

        return compute


def page(network: Network) -> "gradio.Blocks":
    """Return the page of a network.

    Raises:
      ModuleNotFoundError: if Gradio is not installed.
    """
    gradio = _gradio()
    demo = Demo(network)

    def show(path: str | None, *choices: str) -> list[Any]:
        if path is None:
            return [None, *4 * [_image(gradio, None)]]
        try:
            answer = demo.answer(path, *choices)
        except (ValueError, OSError) as error:
            # The folder of an upload means nothing to the user.
            message = str(error).replace(f"{os.path.dirname(path)}{os.sep}", "")
            raise gradio.Error(message, print_exception=False) from error
        shown = (answer.image, answer.first, answer.second, answer.contrast)
        return [answer.probabilities, *(_image(gradio, pair) for pair in shown)]

    names = list(network.class_names)
    with gradio.Blocks(analytics_enabled=False, title="seeflower_jax") as blocks:
        gradio.Markdown(
            f"# What {network.spec.name} sees\n\nDrop an image. The page shows the "
            "most probable classes, and where the network finds evidence for a class."
        )
        with gradio.Row():
            with gradio.Column(scale=1, min_width=280):
                file = gradio.File(label="Image", type="filepath", height=130)
                first = gradio.Dropdown([PREDICTED, *names], label="Class")
                second = gradio.Dropdown(
                    [NO_CLASS, PREDICTED, *names], label="Compare with"
                )
                method = gradio.Dropdown(
                    list(registry.METHODS), value=METHOD, label="Method"
                )
                layer = gradio.Dropdown(
                    demo.layers, label="Layer of class activation maps"
                )
            with gradio.Column(scale=2, min_width=280):
                label = gradio.Label(
                    label="Calibrated probabilities", num_top_classes=_TOP
                )
                with gradio.Row():
                    images = [_image(gradio, None) for _ in range(4)]
        choices = [file, method, layer, first, second]
        gradio.on(
            [choice.change for choice in choices], show, choices, [label, *images]
        )
    return blocks


# Arguments of `launch` for a page on this machine alone.
PRIVATE: dict[str, Any] = {
    "server_name": "127.0.0.1",
    "share": False,
    "max_file_size": MAX_FILE_SIZE,
    "footer_links": [],
    "ssr_mode": False,
    "enable_monitoring": False,
}


def _image(gradio: Any, pair: Captioned | None) -> Any:
    """Return an image of the page, hidden if there is none."""
    pixels, caption = pair or (None, "")
    return gradio.Image(
        pixels,
        label=caption,
        alt_text=caption,
        format="png",
        visible=pair is not None,
        interactive=False,
        buttons=["download", "fullscreen"],
        min_width=220,
    )


def _gradio() -> Any:
    """Import Gradio with its analytics off."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import gradio
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the demo needs Gradio; pip install seeflower_jax[demo]"
        ) from error
    logging.getLogger("httpx").setLevel(logging.WARNING)  # It logs each request.
    return gradio

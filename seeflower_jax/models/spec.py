"""Describe a network except for its variables, without JAX or Flax.

spec = ModelSpec("vgg16", input_size=224, preprocess="caffe",
                 cam_layer="block5_conv3")
spec == ModelSpec(**spec.to_dict())
"""

import dataclasses
import math
import re
from typing import Any

_EXPRESSIONS = "regular expressions on names of endpoints"
DTYPES = ("float32", "bfloat16", "float64")


def is_expression(value: Any) -> bool:
    """Return whether a value is a regular expression."""
    try:
        re.compile(value)
    except (re.error, TypeError):
        return False
    return True


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """Everything except the variables that decides what a network computes.

    Attributes:
      name: the network, a key of `registry.MODELS`.
      input_size: side in pixels that the network is trained at.
      preprocess: the preprocessing that the weights expect, a key of
        `preprocess.PREPROCESS`.
      cam_layer: the default endpoint of class activation maps.
      num_classes: number of logits.
      epsilon: added to the variance in batch normalisation.
      batch_norm_scale: whether batch normalisation has a learned scale.
      count_include_pad: whether average pooling counts the padding.
      head: regular expression that matches the parameters of the new layers.
      pooling: how endpoints become features, a key of `classifier.POOLING`.
      pooled: regular expressions on the names of the endpoints that are pooled; if
        empty, only the last endpoint is pooled.
      standardize: whether the head standardises each feature first.
      hidden: widths of the head's layers before the logits.
      dropout: rate in training, in the head and after the baseline's pooling.
      width: factor on the number of channels; 1 is the published network.
      dtype: dtype of the computation, a value of `DTYPES`; parameters are float32.
        'float64' is for comparisons, and needs the 64-bit mode of JAX.

    Raises:
      ValueError: if a value is out of range.
    """

    name: str
    input_size: int
    preprocess: str
    cam_layer: str
    num_classes: int = 1000
    epsilon: float = 1e-3
    batch_norm_scale: bool = False
    count_include_pad: bool = False
    head: str = "head/.*"
    pooling: str = "average"
    pooled: tuple[str, ...] = ()
    standardize: bool = False
    hidden: tuple[int, ...] = ()
    dropout: float = 0.0
    width: float = 1.0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        # JSON and config files have lists.
        object.__setattr__(self, "hidden", tuple(self.hidden))
        object.__setattr__(self, "pooled", tuple(self.pooled))
        self._require("input_size", self.input_size >= 1, "at least 1")
        self._require("num_classes", self.num_classes >= 1, "at least 1")
        self._require(
            "hidden", all(n >= 1 for n in self.hidden), "widths of at least 1"
        )
        self._require("pooled", all(map(is_expression, self.pooled)), _EXPRESSIONS)
        self._require("dropout", 0 <= self.dropout < 1, "at least 0 and less than 1")
        self._require("width", 0 < self.width < math.inf, "positive and finite")
        self._require("epsilon", 0 < self.epsilon < math.inf, "positive and finite")
        self._require("dtype", self.dtype in DTYPES, " or ".join(map(repr, DTYPES)))

    def _require(self, field: str, valid: bool, expected: str) -> None:
        if not valid:
            value = getattr(self, field)
            raise ValueError(
                f"{field} of model {self.name!r} is {value!r}; expected {expected}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-serialisable form; `ModelSpec(**form)` restores the spec."""
        return dataclasses.asdict(self)

"""List the published weight files with their addresses and hashes.

CATALOG["vgg16"].url
published = find("inception_v3", "imagenet:torchvision")
is_published("vgg16", "vgg16_notop.h5", variables)
"""

import dataclasses
import os

from seeflower_jax import download, records
from seeflower_jax.pretrained.types import Variables


@dataclasses.dataclass(frozen=True)
class PublishedWeights:
    """A published weight file.

    Attributes:
      url: the address of the file.
      md5: the published MD5 in hexadecimal digits, or None.
      sha256: the first digits of the SHA-256, as in the published file name, or None.
      variables: the `backbone_hash` of the variables in the file, or None. It
        recognises the same variables in another file, for example in another format
        of Keras.
    """

    url: str
    md5: str | None = None
    sha256: str | None = None
    variables: str | None = None

    @property
    def name(self) -> str:
        """The name of the file."""
        return self.url.rsplit("/", 1)[-1]

    def matches(self, path: str | os.PathLike) -> bool:
        """Return whether a file has the published hash."""
        if self.md5:
            return download.file_hash(path, "md5") == self.md5
        if self.sha256:
            return download.file_hash(path).startswith(self.sha256)
        return False


def _keras(
    model: str, md5: str, ending: str = "_notop", variables: str | None = None
) -> PublishedWeights:
    base = "https://storage.googleapis.com/tensorflow/keras-applications"
    name = f"{model}_weights_tf_dim_ordering_tf_kernels{ending}.h5"
    return PublishedWeights(f"{base}/{model}/{name}", md5=md5, variables=variables)


def _torch(name: str, sha256: str) -> PublishedWeights:
    url = f"https://download.pytorch.org/models/{name}-{sha256}.pth"
    return PublishedWeights(url, sha256=sha256)


# The keys are a network and a source. `vgg16` is Keras' file without the classifier,
# `vgg16:top` is Keras' file with the classifier, and `vgg16:torchvision` is the file of
# torchvision. Configs call them 'imagenet', 'imagenet:top' and 'imagenet:torchvision'.
CATALOG = {
    "inception_v3": _keras("inception_v3", "bcbd6486424b2319ff4ef7d526e38f63"),
    "inception_v3:top": _keras("inception_v3", "9a0d58056eeedaa3f26cb7ebd46da564", ""),
    "inception_v3:torchvision": _torch("inception_v3_google", "0cc3c7bd"),
    "vgg16": _keras(
        "vgg16", "6d6bbae143d832006294945121d1f1fc", variables="f4a4823496d8"
    ),
    "vgg16:top": _keras("vgg16", "64373286793e3c8b2b4e3219cbf3544b", ""),
    "vgg16:torchvision": _torch("vgg16", "397923af"),
    "vgg19": _keras("vgg19", "253f8cb515780f3b799900260a226db6"),
    "vgg19:top": _keras("vgg19", "cbe5617147190e668d6c5d5026f83318", ""),
    "vgg19:torchvision": _torch("vgg19", "dcbb9e9d"),
}
PREFIX = "imagenet"


def of_network(model: str) -> dict[str, PublishedWeights]:
    """Return the entries of a network by the names that a config uses."""
    return {
        PREFIX + key.removeprefix(model): published
        for key, published in CATALOG.items()
        if key.partition(":")[0] == model
    }


def find(model: str, weights: str) -> PublishedWeights:
    """Return the published file of a network that a config calls `weights`.

    Args:
      model: the name of the network.
      weights: 'imagenet', 'imagenet:top' or 'imagenet:torchvision'.

    Raises:
      ValueError: if there is no such file; the message lists the files of the network.
    """
    by_name = of_network(model)
    if weights not in by_name:
        expected = f"one of {list(by_name)}" if by_name else "'' or the path of a file"
        raise ValueError(
            f"no weights {weights!r} of {model} are published; expected {expected}"
        )
    return by_name[weights]


def backbone_hash(variables: Variables) -> str:
    """Return the `records.variables_hash` of the variables below the head."""
    backbone = {
        collection: {name: value for name, value in parts.items() if name == "backbone"}
        for collection, parts in variables.items()
    }
    return records.variables_hash(backbone)


def is_published(model: str, path: str | os.PathLike, variables: Variables) -> bool:
    """Return whether a file is published, or has the variables of a published file.

    Args:
      model: the name of the network.
      path: the weight file.
      variables: the variables of the network, loaded from the file.
    """
    published = of_network(model).values()
    return any(weights.matches(path) for weights in published) or any(
        weights.variables == backbone_hash(variables)
        for weights in published
        if weights.variables
    )

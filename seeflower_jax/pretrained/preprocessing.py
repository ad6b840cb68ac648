"""Find the preprocessing that weights expect, if their file does not state it.

    name = choose("vgg16", path, variables, usual="torch", chosen=None)

Files of Keras and torchvision do not state a preprocessing. `choose` recognises known
files by their hash. For any other file, it logs a warning with the preprocessing that
it assumes.
"""

import logging
import os

from seeflower_jax.download import file_hash
from seeflower_jax.models.preprocess import PREPROCESS
from seeflower_jax.pretrained import published
from seeflower_jax.pretrained.types import Variables

DESCRIPTIONS = {
    "unit": "RGB in [0, 1]",
    "tf": "RGB in [-1, 1]",
    "caffe": "BGR in [0, 255] minus the channel means",
    "caffe_rgb": "RGB in [0, 255] minus the channel means",
    "torch": "RGB in [0, 1], standardised by ImageNet's mean and deviation",
}
# {network: {first digits of the SHA-256 of a file: preprocessing}}, in addition to the
# files of `published`.
KNOWN = {
    "vgg16": {
        "88682ab5": "caffe_rgb",  # torchvision, vgg16_features-amdegroot
        "00b39a1b": "caffe",  # Caffe's weights, converted by Johnson
        "82412952": "torch",  # torchvision before 0.1.9
    },
    "vgg19": {"d01eb7cb": "caffe", "341d7465": "torch"},  # as for vgg16
    "inception_v3": {
        "1a9a5a14": "tf",  # torchvision before 0.7
        "e0069de4": "tf",  # timm, tf_inception_v3
        "9e27bd63": "tf",  # timm, adv_inception_v3
        "9f746940": "torch",  # timm, gluon_inception_v3
    },
}
# The usual preprocessing of the published files of Keras.
_KERAS = {"vgg16": "caffe", "vgg19": "caffe", "inception_v3": "tf"}


def choose(
    model: str,
    path: str | os.PathLike,
    variables: Variables,
    usual: str,
    chosen: str | None,
) -> str:
    """Return the preprocessing of a file of Keras or torchvision.

    Args:
      model: the name of the network.
      path: the file.
      variables: the variables of the network, loaded from the file.
      usual: the preprocessing that most files of this format expect.
      chosen: the preprocessing that the user has chosen, or None.

    Returns:
      `chosen` if it is not None, else the preprocessing of a known file, else `usual`.
      A warning is logged if `usual` is an assumption, or if a known file expects
      another preprocessing than `chosen`.
    """
    known = recognise(model, path, variables, usual)
    if chosen is not None:
        if known not in (None, chosen):
            logging.warning(
                "%s expects the preprocessing %r (%s), but %r is chosen",
                path,
                known,
                DESCRIPTIONS[known],
                chosen,
            )
        return chosen
    if known is not None:
        return known
    logging.warning(
        "%s does not state its preprocessing: assuming %r (%s). If the weights expect "
        "another, set --config.model.preprocess (scripts.train) or --preprocess (other "
        "scripts) to one of %s",
        path,
        usual,
        DESCRIPTIONS[usual],
        ", ".join(PREPROCESS),
    )
    return usual


def recognise(
    model: str, path: str | os.PathLike, variables: Variables, usual: str
) -> str | None:
    """Return the preprocessing of a known file, or None if the file is not known.

    A file is known by its hash, or by the hash of its variables below the head. Caffe's
    weights are also known if the input channels of the first layer are reversed.
    """
    known = KNOWN.get(model, {})
    digest = file_hash(path) if known else ""
    for digits, preprocess in known.items():
        if digest.startswith(digits):
            return preprocess
    if model not in _KERAS:
        return None
    files = published.of_network(model).values()
    if any(weights.matches(path) for weights in files):
        return usual
    hashes = {weights.variables for weights in files if weights.variables}
    if hashes and published.backbone_hash(variables) in hashes:
        return _KERAS[model]
    if hashes and _KERAS[model] == "caffe":
        if published.backbone_hash(_reversed(variables)) in hashes:
            return "caffe_rgb"
    return None


def _reversed(variables: Variables) -> Variables:
    """Return variables of a VGG with the input channels reversed."""
    backbone = dict(variables["params"]["backbone"])
    first = backbone["block1_conv1"]
    backbone["block1_conv1"] = {**first, "kernel": first["kernel"][:, :, ::-1]}
    return {**variables, "params": {"backbone": backbone}}

"""Compare the endpoints of a network with the endpoints of Keras' network."""

import jax
import keras
import numpy as np
from PIL import Image

from seeflower_jax import models
from seeflower_jax.pretrained import loading, published

_INPUTS = {
    "inception_v3": keras.applications.inception_v3.preprocess_input,
    "vgg16": keras.applications.vgg16.preprocess_input,
    "vgg19": keras.applications.vgg19.preprocess_input,
}


def weight_file(assets, model):
    """Return the path of the real weight file of a network."""
    return assets / "weights" / published.CATALOG[model].url.rsplit("/", 1)[-1]


def pictures(assets, side):
    """Return three real images, uint8 [3, side, side, 3]."""
    names = ("image_00001.jpg", "image_04000.jpg", "image_08189.jpg")
    folder = assets / "oxford_flowers102/jpg"
    return np.stack([Image.open(folder / n).resize((side, side)) for n in names])


def errors(model, path, keras_model, images, endpoints):
    """Return {endpoint: max |difference| / max |reference|} for a weight file."""
    spec = models.get_spec(model, num_classes=102)
    spec, variables, _ = loading.load_pretrained(spec, str(path))
    ours = jax.jit(lambda v, x: models.apply(spec, v, x)[1])(variables, images)
    outputs = [keras_model.get_layer(name).output for name in endpoints]
    inputs = _INPUTS[model](np.array(images, np.float32))
    theirs = keras.Model(keras_model.input, outputs).predict(inputs, verbose=0)
    return {
        name: np.abs(ours[name] - reference).max() / np.abs(reference).max()
        for name, reference in zip(endpoints, theirs, strict=True)
    }

"""What in a picture a network's answer comes from.

    network = functools.partial(models.apply, spec, variables)
    maps = grad_cam.grad_cam(network, images, targets, layer="mixed10")   # [N, H, W]

A method is a pure function `method(network, images, targets, ...) -> maps`, to be
jitted by the caller. `network(images, taps=None) -> (logits, endpoints)` has its
variables bound; any function of this form will do, here or elsewhere. `targets` says
what is explained, see `targets`. Maps are raw, float32 and of the pictures' size; they
are signed where the method is. Normalising is for display.

In inference no picture of a batch influences another, so one gradient of the sum of
their scores is the gradient of each.

`batch` runs methods by name over any number of pictures.
"""

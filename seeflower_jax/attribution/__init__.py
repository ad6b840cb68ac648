"""Attribution: maps of the image regions that a network's score depends on.

    network = functools.partial(models.apply, spec, variables)
    maps = grad_cam.grad_cam(network, images, targets, layer="mixed10")   # [N, H, W]

A method is a pure function `method(network, images, targets, ...) -> maps`. The caller
may jit it.

- `network(images, taps=None)` returns `(logits, endpoints)`. It is a pure function with
  its variables bound. Any function of this form works, see `types.NetworkFunction`.
- `images` are RGB in [0, 255], [N, H, W, 3].
- `targets` says which score the maps explain, see `targets`. The default is the logit
  of the predicted class.
- `maps` are float32 [N, H, W], at the size of the images. They are raw: normalise them
  only for display. Only signed methods return negative values.

In inference, the images of a batch do not influence one another. One gradient of the
sum of all scores therefore holds the gradient of each score.

`registry` lists the methods by name, and `batch` runs methods by name. `localisation`
and `faithfulness` measure maps. `activation_max` synthesises images of a class.
"""

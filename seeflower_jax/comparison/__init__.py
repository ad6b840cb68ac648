"""Comparison of this package with other frameworks: outputs and speed.

Only this package imports Keras, PyTorch and captum. The extras `dev` and `benchmark`
install them.

| module | what it compares |
|---|---|
| `parity` | every block of the networks with Keras and torchvision |
| `training_speed` | images/s of inference and fine-tuning with Keras and PyTorch |
| `attribution_speed` | maps/s and memory of attribution methods with captum |
| `references`, `captum_reference` | the networks and methods of the other frameworks |
| `timing` | time and memory, each measured in its own process |
"""

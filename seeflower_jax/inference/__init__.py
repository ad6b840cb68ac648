"""Use a trained network from a run, an export or a weight file.

    network = load.load("runs/inception_seed0")      # a run, an export, a weight file
    network.predict("photos/")                       # a list of `Prediction`
    network.explain("rose.jpg").overlay().save("cam.png")

The module `network` defines the type `Network`. `run` reads a network from a run
directory, and `export` writes and reads exports.
"""

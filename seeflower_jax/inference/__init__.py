"""Use a trained network: of a run, an export or a weight file.

    network = load.load("runs/inception_seed0")      # a run, an export, a weight file
    network.predict("photos/")                       # a list of `Prediction`
    network.explain("rose.jpg").overlay().save("cam.png")

`network` has the type, `run` and `export` read and write it.
"""

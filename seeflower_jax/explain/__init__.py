"""Jobs over many images: attribution, metrics of maps, activation maximisation.

    attribute.attribute(network, network.images("photos/"), ["grad_cam"], out="maps")
    score.score_methods(run, dataset.images("test"), ["grad_cam"], out="scores")
    layers.draw(network, network.images("photos/"), ["block5", "head"], "layers.png")
    maximise.maximise_classes(run, "activation_max", classes=["7"])
    evaluate(run, "test", evaluator, compute=closer.make_closer_look(run.network))

`attribute` and `layers` take any network. The other functions take a run.
"""

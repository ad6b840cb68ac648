"""Compute logits, metrics and calibration of whole splits.

evaluator = Evaluator(spec, (view,), batch_size=32, mesh=make_mesh())
logits = evaluator.logits(variables, dataset.reader, dataset.indices("test"))
metrics.compute(logits, dataset.labels("test"))["top1"]
"""

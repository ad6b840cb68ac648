"""Train a network in stages: partition, optimizer, step, progress, checkpoints, loop.

plan = StagePlan(stage, step, batches, validate, key, ...)
state, progress = fit(plan, state, Progress("head"), checkpoints, log)
"""

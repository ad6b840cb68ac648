"""A run, from its config to its result.

    result = train.train(config, "runs/seed0")
    evaluation = evaluate.evaluate(load_run("runs/seed0"), "test")

A config is read once, by `settings.read_settings`, and becomes typed, validated values.
Nothing below this room sees a config.
"""

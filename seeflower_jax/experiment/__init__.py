"""Train and evaluate a run, from its config to its result.

    result = train.train(config, "runs/seed0")
    evaluation = evaluate.evaluate(load_run("runs/seed0"), "test")

`settings.read_settings` reads a config once and returns typed, validated values. No
room below this room sees a config.
"""

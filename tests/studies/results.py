"""Make contents of `result.json` for tests of records and tables."""


def make_result(
    model="vgg16", split="official", recipe="paper", seed=0, top1=0.8, **more
):
    """Return the content of `result.json` of a run, with further or other keys."""
    metrics = {"top1": top1, "mean_class_top1": top1 + 0.01, "count": 6149}
    return {
        "model": model,
        "split": split,
        "recipe": recipe,
        "seed": seed,
        "weights": {"name": "file", "sha256": "0", "exact": False},
        "device": "1 x gpu",
        "seconds": {"head": 60.0, "finetune": 600.0, "evaluation": 100.0},
        "versions": {"jax": "0.10"},
        "git_commit": None,
        "config_hash": "0123456789ab",
        "command": "python -m scripts.train",
        "test": metrics,
        "validation": metrics,
    } | more

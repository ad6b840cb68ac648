from seeflower_jax.models import ModelSpec  # noqa: F401

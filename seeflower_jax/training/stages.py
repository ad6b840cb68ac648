"""The stages of a run, from its config.

    for stage in stages(config):
        ...  # stage.name, stage.index, stage.config

A stage is a number of epochs with one partition of the parameters, one optimizer and
one augmentation. The paper has two: `head`, the new layers on a frozen network, and
`finetune`, the whole network at a much lower learning rate.
"""

import dataclasses

import ml_collections
import optax


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage: its name, its place in the run, its part of the config."""

    name: str
    index: int
    config: ml_collections.ConfigDict

    @property
    def rules(self) -> tuple[tuple[str, float | None], ...]:
        """Partition rules, see `partition`."""
        return tuple((rule, factor) for rule, factor in self.config.partition)

    def freezes_backbone(self, head: str) -> bool:
        """Whether nothing below the head is trained, by the head's expression."""
        return all(factor is None or rule == head for rule, factor in self.rules)

    def schedule(self, steps: int) -> optax.Schedule:
        """Learning rate by step: linear warm-up, then constant or half a cosine to 0.

        Raises:
          ValueError: for an unknown schedule.
        """
        config = self.config
        warmup = min(config.warmup_steps, steps)
        if config.schedule == "cosine":
            return optax.warmup_cosine_decay_schedule(
                0.0 if warmup else config.learning_rate,
                config.learning_rate,
                warmup,
                max(steps, warmup + 1),
            )
        if config.schedule == "constant":
            return optax.join_schedules(
                [
                    optax.linear_schedule(0.0, config.learning_rate, warmup),
                    optax.constant_schedule(config.learning_rate),
                ],
                [warmup],
            )
        raise ValueError(
            f"unknown schedule {config.schedule!r} in stage {self.name!r}; "
            "known are 'cosine' and 'constant'"
        )


def stages(config: ml_collections.ConfigDict) -> list[Stage]:
    """The stages in `config.stage_order`; one of 0 epochs is left out.

    Raises:
      ValueError: for a name in `stage_order` that `config.stages` lacks.
    """
    unknown = [name for name in config.stage_order if name not in config.stages]
    if unknown:
        raise ValueError(
            f"stage_order names {unknown}; config.stages has {list(config.stages)}"
        )
    named = [
        Stage(name, index, config.stages[name])
        for index, name in enumerate(config.stage_order)
    ]
    return [stage for stage in named if stage.config.epochs > 0]

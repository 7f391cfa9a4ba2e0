"""How fast the target network follows, by step."""

import jax
import optax


def cosine(base: float, total_steps: int, ahead: int = 0) -> optax.Schedule:
    """Returns a momentum that rises from `base` to 1 by half a cosine.

    It is 1 - (1 - base) (1 + cos(pi s / total_steps)) / 2 in step s (Grill et al. 2020, section
    3.2; the same in MoCo-v3).

    Args:
        base: momentum of the first step.
        total_steps: steps of the training; later ones have momentum 1.
        ahead: added to the step. BYOL updates its target after a step, MoCo-v3 before the next one,
            with that one's momentum: 1.
    """
    rest = optax.cosine_decay_schedule(1 - base, total_steps)

    def by_step(step: jax.Array) -> jax.Array:
        return 1 - rest(step + ahead)

    return by_step

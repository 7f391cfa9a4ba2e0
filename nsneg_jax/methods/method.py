"""What a pre-training method is to the jobs that train it."""

from typing import Any, Protocol

import jax

from nsneg_jax.methods.batches import ViewMaker
from nsneg_jax.methods.shuffling import Batch
from nsneg_jax.models.encoder import Encoder, Tree

Metrics = dict[str, jax.Array]  # scalars, by name


class Method(Protocol):
    """A pre-training method; hashable, so it can be static under jit.

    Its state is a dataclass of `flax.struct` with the fields `step`, int32, the steps done, and
    `params_q` and `stats_q`, parameters and batch-norm statistics of the encoder that is evaluated.
    Checkpoints hold it as it is.

    Attributes:
        encoder: the network that is evaluated.
        views: makes the views of a batch from its crops.
    """

    @property
    def encoder(self) -> Encoder: ...

    @property
    def views(self) -> ViewMaker: ...

    @property
    def state_type(self) -> type[Any]:
        """The class of the state."""
        ...

    @property
    def shuffles(self) -> bool:
        """Whether key crops are used in the orders of `views.draw_orders`."""
        ...

    @property
    def key_passes(self) -> int:
        """Forward passes per step besides the query's."""
        ...

    @property
    def queue_fields(self) -> tuple[str, ...]:
        """Fields of the state whose rows devices may share; () for none."""
        ...

    def init(self, params: Tree, stats: Tree) -> Any:
        """The state before the first step.

        Args:
            params: initial parameters of the encoder.
            stats: its initial batch-norm statistics.
        """
        ...

    def step(self, state: Any, batch: Batch, arranged: bool = False) -> tuple[Any, Metrics]:
        """The state after one step, and scalar metrics, of which 'loss' must be one.

        Args:
            state: before the step.
            batch: uint8 crops, see `ViewMaker.__call__`.
            arranged: whether the crops are in the orders of the passes already.
        """
        ...

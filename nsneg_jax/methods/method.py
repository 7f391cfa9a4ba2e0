"""The interface between a pre-training method and the jobs that train it."""

from typing import Any, Protocol

import jax

from nsneg_jax.methods.batches import ViewMaker
from nsneg_jax.methods.shuffling import Batch
from nsneg_jax.models.encoder import Encoder, Tree

Metrics = dict[str, jax.Array]  # scalars, by name


class Method(Protocol):
    """A pre-training method; hashable, so it can be static under jit.

    Its state is a `flax.struct` dataclass with the fields `step` (int32, steps done), `params_q`
    and `stats_q` (parameters and batch-norm statistics of the evaluated encoder); where a network
    beside it is trained, `params_p` has its parameters. Checkpoints store it unchanged.

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
        """Forward passes per step, not counting the query's."""
        ...

    @property
    def queue_fields(self) -> tuple[str, ...]:
        """Fields of the state whose rows may be split over devices; () for none."""
        ...

    def choices(self, batch_size: int) -> int:
        """Returns the choices of the contrast task of accuracy_top1 and accuracy_top5; 0 if none.

        Args:
            batch_size: images per step.
        """
        ...

    def init(self, params: Tree, stats: Tree) -> Any:
        """Returns the state before the first step.

        Args:
            params: initial parameters of the encoder.
            stats: its initial batch-norm statistics.
        """
        ...

    def step(self, state: Any, batch: Batch, arranged: bool = False) -> tuple[Any, Metrics]:
        """Returns the state after one step, and scalar metrics, which must include 'loss'.

        Args:
            state: state before the step.
            batch: uint8 crops, see `ViewMaker.__call__`.
            arranged: whether the crops are already in the orders of the passes.
        """
        ...

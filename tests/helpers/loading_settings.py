"""The settings of a pipeline in one dict, as its tests vary them one by one."""

from nsneg_jax.input.loading import Loaders, Steps


def grouped(settings):
    """`Steps`, `Loaders` and what is left of a dict of settings."""
    rest = dict(settings)
    steps = Steps(rest.pop("batch_size"), rest.pop("start_step", 0), rest.pop("total_steps", 0))
    names = ("threads", "workers", "process_index", "process_count")
    loaders = Loaders(**{name: rest.pop(name) for name in names if name in rest})
    return steps, loaders, rest

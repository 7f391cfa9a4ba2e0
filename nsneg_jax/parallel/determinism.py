"""Makes GPUs repeat a computation to the bit, by options of XLA's compiler."""

import importlib
import importlib.util
import os
import pkgutil

from nsneg_jax.errors import UsageError

# XLA then uses no operation whose order of sums depends on chance, and chooses kernels by rules
# instead of by timing them, which would choose others at the next start.
_FLAG = "--xla_gpu_deterministic_ops"
_TRUE = ("", "=true", "=1", "=True")


def use_deterministic_operations() -> None:
    """Sets the options in XLA_FLAGS; call it before JAX starts its devices.

    Without a plug-in of JAX for GPUs it does nothing: CPUs and TPUs repeat to the bit anyway.

    Raises:
        UsageError: XLA_FLAGS asks for the contrary.
    """
    if not _has_gpu_plugin():
        return
    given = os.environ.get("XLA_FLAGS", "")
    values = [word.removeprefix(_FLAG) for word in given.split() if _is_flag(word)]
    if values and values[-1] not in _TRUE:
        raise UsageError(
            f"deterministic is True, but XLA_FLAGS has {_FLAG}{values[-1]}. Remove it there, or "
            "leave out --config.deterministic."
        )
    if not values:
        os.environ["XLA_FLAGS"] = f"{given} {_FLAG}=true".strip()


def _is_flag(word: str) -> bool:
    return word.partition("=")[0] == _FLAG


def _has_gpu_plugin() -> bool:
    """Returns whether a plug-in of JAX for GPUs is installed, without starting it."""
    if importlib.util.find_spec("jax_plugins") is None:
        return False
    plugins = importlib.import_module("jax_plugins")
    names = [module.name for module in pkgutil.iter_modules(plugins.__path__)]
    return any("cuda" in name or "rocm" in name for name in names)

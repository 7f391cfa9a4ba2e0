"""The recipes: a file per job and method, with variants. Installed as nsneg_jax.configs."""

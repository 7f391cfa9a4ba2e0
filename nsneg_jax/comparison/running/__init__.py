"""Runs jobs as chains of commands side by side, and shows how far they are."""

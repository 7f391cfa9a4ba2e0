"""Trains MoCo with and without patch negatives on a user's pictures, and says whether they help."""

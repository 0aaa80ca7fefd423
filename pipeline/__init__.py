"""The stage scripts: python -m pipeline, or one stage at a time."""

"""Where the work happens: one module per DVC stage, `python -m tasks.<stage> [rung]`."""

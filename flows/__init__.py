"""When the work happens: Prefect flows that order the stages and compute nothing."""

"""When the work happens: Prefect flows that order the stages and compute nothing."""

import os

# Prefect reads these when it is first imported, which the flows' own imports do: nothing about a
# run leaves the machine unless its user asked for it.
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")

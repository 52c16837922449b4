"""Where the work happens: one module per DVC stage, `python -m tasks.<stage> [rung]`."""

import logging
import os

# TensorFlow reads it when it is first imported, which the stages' own imports do: no banner of
# CPU features and missing GPUs before a stage's own words.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
logging.getLogger("tensorflow").setLevel(logging.ERROR)  # its warnings on retracing are no news

"""What the fork server does once, after its imports, so that no body has to do it again.

Nothing of this project is imported here: a body runs the code as it is when the body starts.
"""

from __future__ import annotations

import gc

import pydantic


class _Model(pydantic.BaseModel):
    """The first model of a process makes pydantic read what every installed package offers."""


# TensorFlow's objects stay for good: a body's garbage collector need not look through them.
gc.collect()
gc.freeze()

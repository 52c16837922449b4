"""Training that outgrows one device or one host: replicas that share every batch (tf.distribute).

All replicas hold the same weights, each differentiates its part of a batch, and all take the same
step along the mean of the gradients. So a batch is the same batch however many replicas share it,
and what comes of training differs in the order of sums alone; but BatchNormalization takes each
part's own statistics, and layers that draw draw the same for every part.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import os
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from secateur.errors import InputError

logger = logging.getLogger(__name__)

HOSTS = "TF_CONFIG"

Losses = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
"""From a batch to the loss, and to the mean squared error."""

Differentiated = tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]
"""Loss, mean squared error, and the gradients of the loss."""


class Replicas:
    """Those that share every batch.

    Attributes:
        count: how many they are, on all hosts.
        hosts: how many hosts they are on.
    """

    def __init__(self, strategy: tf.distribute.Strategy, hosts: int = 1) -> None:
        self._strategy = strategy
        self.count: int = strategy.num_replicas_in_sync
        self.hosts = hosts

    def differentiating(
        self,
        losses: Losses,
        trained: Sequence[keras.Variable],
        kept: Sequence[keras.Variable],
        read: Sequence[keras.Variable],
        xla: bool,
    ) -> Callable[[tf.Tensor], Differentiated]:
        """A function of a batch: means over all parts of it, for use in a `tf.function`.

        Variables live once a host. Replicas get their values and hand back what becomes of them, so
        that no replica writes what another reads.

        Args:
            losses: what is differentiated.
            trained: by which.
            kept: what the model changes by itself in training: moving averages, and seeds.
            read: what else `losses` reads: a teacher's weights.
            xla: whether XLA compiles what a replica does.
        """
        trained, known = list(trained), [*trained, *kept, *read]
        averaged = [one for one in kept if tf.as_dtype(one.dtype).is_floating]
        counted = [one for one in kept if not tf.as_dtype(one.dtype).is_floating]

        @tf.function(jit_compile=xla)
        def differentiate(
            values: list[tf.Tensor], part: tf.Tensor
        ) -> tuple[tf.Tensor, list[tf.Tensor]]:
            wanted = values[: len(trained)]
            with tf.GradientTape() as tape:
                tape.watch(wanted)
                with keras.StatelessScope(list(zip(known, values, strict=True))) as scope:
                    loss, error = losses(part)
            gradients = tape.gradient(loss, wanted, unconnected_gradients="zero")
            means = [loss, error, *gradients, *map(scope.get_current_value, averaged)]
            return _flat(means), [scope.get_current_value(one) for one in counted]

        def differentiate_part(
            values: list[tf.Tensor], batch: tf.Tensor
        ) -> tuple[tf.Tensor, list[tf.Tensor]]:
            rows = tf.shape(batch)[0] // self.count
            place = tf.distribute.get_replica_context().replica_id_in_sync_group
            return differentiate(values, batch[place * rows : (place + 1) * rows])

        def differentiated(batch: tf.Tensor) -> Differentiated:
            values = [tf.convert_to_tensor(one) for one in known]
            flat, counts = self._strategy.run(differentiate_part, args=(values, batch))
            # All in one message: hosts are slow to answer, not to send.
            means = self._strategy.reduce(tf.distribute.ReduceOp.MEAN, flat, axis=None)
            loss, error, *rest = _unflat(
                means, [(), (), *(one.shape for one in trained + averaged)]
            )
            for variable, value in zip(averaged, rest[len(trained) :], strict=True):
                variable.assign(value)
            for variable, count in zip(counted, counts, strict=True):
                variable.assign(self._strategy.experimental_local_results(count)[0])
            return loss, error, rest[: len(trained)]

        return differentiated

    def agreed(self, number: float) -> float:
        """The mean of what the hosts bring forward, for decisions that all must take alike."""
        if self.hosts == 1:
            return number
        exact = tf.constant(number, tf.float64)
        return float(self._strategy.reduce(tf.distribute.ReduceOp.MEAN, exact, axis=None))


@functools.cache
def replicas_of(devices: int, hosts: int) -> Replicas | None:
    """Who shares the batches of a training; None if nobody does.

    Of several hosts, each calls this before it does anything else with TensorFlow, and waits here
    for the others.

    Args:
        devices: of each host.
        hosts: as the environment's TF_CONFIG names them.

    Raises:
        InputError: the devices or the hosts are not there.
    """
    if hosts > 1:
        return _over_hosts(devices, hosts)
    if devices == 1:
        return None
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    found = [one.name for one in tf.config.list_logical_devices(kind)]
    if len(found) < devices:
        raise InputError(
            f"training is to share its batches among {devices} devices, this machine has "
            f"{len(found)} ({', '.join(found)}); lower `devices`"
        )
    return Replicas(tf.distribute.MirroredStrategy(found[:devices]))


def _over_hosts(devices: int, hosts: int) -> Replicas:
    others = _others(hosts)
    logger.info("Training on %d hosts; waits until %s are there too", hosts, ", ".join(others))
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        raise InputError(
            f"the hosts of a training must be known before TensorFlow does anything else: {error}. "
            "Call secateur.training.replicas.replicas_of first"
        ) from None
    except tf.errors.OpError as error:  # such as a port that is taken, or hosts that never came
        raise InputError(
            f"the hosts that {HOSTS} names cannot train together: {error.message}"
        ) from None
    if strategy.num_replicas_in_sync != devices * hosts:
        raise InputError(
            f"{hosts} hosts with {devices} devices each are to train, "
            f"{strategy.num_replicas_in_sync} devices are there in all; let CUDA_VISIBLE_DEVICES "
            "show as many on every host, or change `devices`"
        )
    return Replicas(strategy, hosts)


def _others(hosts: int) -> list[str]:
    """The addresses of the other hosts, of as many as are wanted."""
    form = '{"cluster": {"worker": ["host:port", …]}, "task": {"type": "worker", "index": 0}}'
    text = os.environ.get(HOSTS, "")
    try:
        config = json.loads(text)
        named, index = config["cluster"]["worker"], config["task"]["index"]
        is_sound = list(config["cluster"]) == ["worker"] and 0 <= int(index) < len(named)
    except (ValueError, KeyError, TypeError):
        is_sound = False
    if not is_sound:
        raise InputError(
            f"training on {hosts} hosts needs {HOSTS} in the environment, such as {form}; got "
            f"{text or 'nothing'!r}. See docs/scale.md"
        )
    if len(named) != hosts:
        raise InputError(f"training is to run on {hosts} hosts, {HOSTS} names {len(named)}")
    return [str(address) for place, address in enumerate(named) if place != int(index)]


def _flat(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    return tf.concat([tf.reshape(one, [-1]) for one in tensors], 0)


def _unflat(flat: tf.Tensor, shapes: Sequence[Sequence[int]]) -> list[tf.Tensor]:
    parts = tf.split(flat, [math.prod(shape) for shape in shapes])
    return [tf.reshape(part, shape) for part, shape in zip(parts, shapes, strict=True)]

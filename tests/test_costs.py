from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tensorflow.python.framework import ops
from tensorflow.python.profiler.internal import flops_registry  # noqa: F401

from secateur.autoencoders import dense
from secateur.costs import costs, count_macs
from secateur.graph import Footprint
from secateur.schedule import peak_activation_bytes
from tests.graph_models import MODELS


def test_a_dense_model_costs_what_is_counted_by_hand():
    counted = costs(dense(64, widths=(32, 16), code=8))
    macs = 64 * 32 + 32 * 16 + 16 * 8 + 8 * 16 + 16 * 32 + 32 * 64
    biases = 32 + 16 + 8 + 16 + 32 + 64
    assert counted.macs == macs
    assert counted.parameters == macs + biases
    # At the first layer its input and output are alive, at the last too: 64 + 32 float32.
    assert counted.peak_activation_bytes == 4 * (64 + 32)


def test_zeros_are_not_counted_as_nonzero():
    model = dense(8, widths=(), code=4)
    kernel, bias = model.get_layer("code").get_weights()
    kernel[:3] = 0
    model.get_layer("code").set_weights([kernel, bias])
    counted = costs(model)
    assert counted.macs == 64
    assert counted.nonzero_macs == 64 - 3 * 4
    assert counted.nonzeros == 64 - 3 * 4  # the biases start as zeros


def test_convolutions_are_counted_a_position_at_a_time():
    image = keras.Input((8, 8, 1))
    hidden = keras.layers.Conv2D(4, 3, strides=2, padding="same")(image)  # (4, 4, 4)
    hidden = keras.layers.DepthwiseConv2D(3, padding="same")(hidden)
    output = keras.layers.Conv2DTranspose(1, 3, strides=2, padding="same")(hidden)
    counted = costs(keras.Model(image, output))
    assert counted.macs == 16 * (9 * 4) + 16 * (9 * 4) + 16 * (9 * 4)


def test_nested_models_are_opened():
    flat = dense(16, widths=(8,), code=4)
    row, code = keras.Input((16,)), keras.Input((4,))
    encoder = keras.Sequential([row, keras.layers.Dense(8), keras.layers.Dense(4)])
    decoder = keras.Sequential([code, keras.layers.Dense(8), keras.layers.Dense(16)])
    outer = keras.Input((16,))
    nested = costs(keras.Model(outer, decoder(encoder(outer))))
    assert nested.macs == costs(flat).macs
    assert nested.peak_activation_bytes == costs(flat).peak_activation_bytes


def test_zeros_shrink_the_gzipped_bytes_only():
    full = dense(64, widths=(32,), code=8)
    emptied = dense(64, widths=(32,), code=8)
    emptied.set_weights([np.zeros_like(weight) for weight in emptied.get_weights()])
    assert costs(emptied).gzip_bytes < costs(full).gzip_bytes / 10
    assert costs(emptied).size_bytes == costs(full).size_bytes


class Strange(keras.layers.Layer):
    """A layer with a kernel of a kind that nobody foresaw."""

    def build(self, input_shape):
        self.matrix = self.add_weight(shape=(input_shape[-1], 4), name="matrix")

    def call(self, inputs):
        return inputs @ self.matrix


class Looping(keras.layers.Layer):
    """A layer whose number of turns only its input knows."""

    def build(self, input_shape):
        self.matrix = self.add_weight(shape=(input_shape[-1], input_shape[-1]), name="matrix")

    def call(self, inputs):
        return keras.ops.while_loop(
            lambda state: keras.ops.all(state > 1.0),
            lambda state: (state @ self.matrix,),
            (inputs,),
        )[0]


def test_foreign_layers_are_counted_in_tensorflows_graph_of_them():
    row = keras.Input((5, 3))
    assert count_macs(keras.Model(row, Strange()(row)))[0] == 5 * 3 * 4
    own = layers.Attention()([row, row])
    assert count_macs(keras.Model(row, own))[0] == 2 * 5 * 5 * 3
    image = keras.Input((4, 6, 6, 2))
    hidden = layers.ConvLSTM2D(3, 3, padding="same")(image)
    assert count_macs(keras.Model(image, hidden))[0] == 4 * 36 * 9 * (2 + 3) * 12


def separable():
    image = keras.Input((16, 16, 3))
    hidden = layers.SeparableConv2D(8, 3, padding="same")(layers.Conv2D(6, 3, 2)(image))
    hidden = layers.Conv2DTranspose(5, 3, strides=2, padding="same")(hidden)
    return keras.Model(image, layers.Conv2D(3, 1)(hidden))


def dilated():
    image = keras.Input((16, 16, 3))
    hidden = layers.Conv2D(8, 3, dilation_rate=2)(layers.Conv2D(8, 3, padding="same")(image))
    hidden = layers.DepthwiseConv2D(3, depth_multiplier=2)(hidden)
    return keras.Model(image, layers.Dense(4)(layers.Flatten()(hidden)))


def attentive():
    tokens = keras.Input((5, 6))
    hidden = layers.LayerNormalization()(layers.MultiHeadAttention(2, 4)(tokens, tokens))
    return keras.Model(tokens, layers.Dense(6)(hidden))


def recurrent():
    steps = keras.Input((5, 6))
    hidden = layers.LSTM(7, return_sequences=True, unroll=True)(steps)
    return keras.Model(steps, layers.Dense(6)(layers.GRU(4, unroll=True)(hidden)))


def along_time():
    steps = keras.Input((12, 4))
    hidden = layers.Conv1D(6, 3, padding="causal")(steps)
    hidden = layers.EinsumDense("abc,cd->abd", (None, 5))(hidden)
    return keras.Model(steps, layers.Conv1DTranspose(4, 3, 2, "same")(hidden))


def macs_by_tensorflow(model):
    """Half of the operations that TensorFlow's profiler counts in its own graph of the model."""
    spec = tf.TensorSpec((1, *model.input_shape[1:]))
    graph = tf.function(lambda rows: model(rows, training=False)).get_concrete_function(spec).graph
    macs = 0
    for one in graph.get_operations():
        if one.type == "Einsum":  # which the profiler does not know
            parts = one.get_attr("equation").decode().split("->")[0].split(",")
            sizes = {
                letter: size
                for part, tensor in zip(parts, one.inputs, strict=True)
                for letter, size in zip(part, tensor.shape, strict=True)
            }
            macs += int(np.prod(list(sizes.values())))
        elif "MatMul" in one.type or "Conv" in one.type:
            macs += ops.get_stats_for_node_def(graph, one.node_def, "flops").value / 2
    return macs


@pytest.mark.parametrize("make", [separable, dilated, attentive, recurrent, along_time])
def test_tensorflow_counts_the_same(make):
    model = make()
    assert count_macs(model)[0] == macs_by_tensorflow(model)


def test_a_layer_nobody_can_count_is_named():
    row = keras.Input((3,))
    model = keras.Model(row, Looping(name="memory")(row))
    with pytest.raises(NotImplementedError, match=r"'memory' \(Looping\): it holds a loop"):
        costs(model)


@pytest.mark.parametrize("name", MODELS)
def test_what_the_graph_counts_is_what_it_costs(name):
    model = MODELS[name]()
    counted = costs(model)
    footprint = Footprint(model)
    assert counted.parameters == footprint.parameters({}) == model.count_params()
    assert counted.macs == footprint.macs({})
    assert counted.nonzero_macs == counted.macs
    inputs, outputs = (
        sum(4 * np.prod([size or 1 for size in one.shape[1:]]) for one in tensors)
        for tensors in (model.inputs, model.outputs)
    )
    assert counted.peak_activation_bytes >= max(inputs, outputs)


def test_recurrent_layers_are_counted_a_step_at_a_time():
    row = keras.Input((5, 3))
    assert count_macs(keras.Model(row, layers.LSTM(4)(row)))[0] == 5 * (3 * 16 + 4 * 16)
    assert count_macs(keras.Model(row, layers.GRU(4)(row)))[0] == 5 * (3 * 12 + 4 * 12)
    _, *state = layers.LSTM(4, return_state=True)(row)
    handed_in = layers.LSTM(4)(row, initial_state=state)
    both = 5 * (3 * 16 + 4 * 16) * 2
    assert count_macs(keras.Model(row, handed_in))[0] == both


def test_attention_multiplies_queries_with_keys_and_scores_with_values():
    query, value = keras.Input((6, 8)), keras.Input((5, 8))
    hidden = layers.MultiHeadAttention(2, 3, value_dim=4)(query, value)
    model = keras.Model([query, value], hidden)
    projections = 6 * 8 * 2 * 3 + 5 * 8 * 2 * 3 + 5 * 8 * 2 * 4 + 6 * 2 * 4 * 8
    assert count_macs(model)[0] == projections + 2 * 6 * 5 * (3 + 4)


def test_matrix_products_of_activations_are_counted():
    left, right = keras.Input((6, 8)), keras.Input((8, 5))
    assert count_macs(keras.Model([left, right], keras.ops.matmul(left, right)))[0] == 6 * 5 * 8
    other = keras.Input((5, 8))
    dot = keras.Model([left, other], layers.Dot(axes=2)([left, other]))
    assert count_macs(dot)[0] == 6 * 5 * 8


def test_an_embedding_multiplies_nothing():
    row = keras.Input((7,), dtype="int32")
    model = keras.Model(row, layers.Dense(3)(layers.Embedding(9, 8)(row)))
    assert count_macs(model)[0] == 7 * 8 * 3


def test_a_shared_layer_is_stored_once_and_multiplied_twice():
    row = keras.Input((8,))
    layer = layers.Dense(8, use_bias=False)
    counted = costs(keras.Model(row, layer(layer(row))))
    assert (counted.parameters, counted.macs) == (64, 128)


def peak(*parts: keras.layers.Layer, width: int = 10) -> int:
    """Peak of a chain, in numbers."""
    model = keras.Sequential([keras.Input((width,)), *parts])
    return peak_activation_bytes(model) // 4


def test_views_and_single_element_wise_operations_take_no_memory():
    assert peak(layers.Dense(20)) == 10 + 20
    assert peak(layers.Dense(20, "relu"), layers.Dropout(0.1), layers.Reshape((4, 5))) == 10 + 20
    assert peak(layers.Dense(20), layers.BatchNormalization(), layers.LeakyReLU()) == 10 + 20


def test_an_activation_of_what_is_needed_later_takes_memory():
    row = keras.Input((10,))
    hidden = layers.Dense(20)(row)
    output = layers.Add()([layers.ReLU()(hidden), hidden])
    # The add holds both its inputs and its output.
    assert peak_activation_bytes(keras.Model(row, output)) == 4 * 60
    viewed = layers.Add()([layers.Reshape((20,))(hidden), hidden])
    assert peak_activation_bytes(keras.Model(row, viewed)) == 4 * 40


def test_a_skip_keeps_its_tensor_alive():
    row = keras.Input((10,))
    first = layers.Dense(20)(row)
    narrow = layers.Dense(2)(first)
    output = layers.Concatenate()([layers.Dense(20)(narrow), first])
    # first, the other branch, and both joined.
    assert peak_activation_bytes(keras.Model(row, output)) == 4 * (20 + 20 + 40)


def test_what_a_nested_model_reads_stays_alive_while_it_runs():
    inner_row = keras.Input((10,))
    inner = keras.Model(inner_row, layers.Dense(10)(layers.Dense(30)(inner_row)))
    row = keras.Input((10,))
    output = layers.Add()([inner(row), row])
    # In the inner model: 30 and 10 numbers, beside the row that the add needs.
    assert peak_activation_bytes(keras.Model(row, output)) == 4 * (10 + 30 + 10)


def test_attention_and_separable_convolutions_need_room_inside():
    query = keras.Input((6, 8))
    attention = keras.Model(query, layers.MultiHeadAttention(2, 3)(query, query))
    # The row, the scores, the values and their mixture, when scores and values are multiplied; the
    # row is read last for the values.
    row, keys, scores = 6 * 8, 6 * 2 * 3, 2 * 6 * 6
    assert peak_activation_bytes(attention) == 4 * max(row + 2 * keys + scores, scores + 2 * keys)
    image = keras.Input((4, 4, 2))
    separable = layers.SeparableConv2D(3, 3, padding="same", depth_multiplier=5)(image)
    assert peak_activation_bytes(keras.Model(image, separable)) == 4 * 16 * (10 + 3)


def test_the_function_is_offered_by_its_name_whoever_imported_the_module_before():
    import secateur

    assert secateur.costs is costs

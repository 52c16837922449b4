"""Small models, each with something that a dependency graph can get wrong."""

from __future__ import annotations

from collections.abc import Callable

import keras
from keras import Model, layers, ops


def mlp() -> Model:
    x = keras.Input((12,))
    h = layers.Dense(10, "relu")(x)
    h = layers.Dense(3)(h)
    h = layers.Dense(9, layers.LeakyReLU())(h)
    return Model(x, layers.Dense(12)(h))


def skips() -> Model:
    x = keras.Input((12,))
    first = layers.Dense(10, "relu")(x)
    h = layers.BatchNormalization()(first)
    h = layers.PReLU()(layers.Dense(10)(h))
    h = layers.Add()([h, first])
    h = layers.Subtract()([h, layers.Dense(10)(x)])
    h = layers.Maximum()([h, layers.Multiply()([h, first])])
    h = layers.Concatenate()([h, first, x])
    h = layers.Dense(4)(h)
    return Model(x, layers.Dense(12)(layers.Dense(7, "tanh")(h)))


def convolutional() -> Model:
    """Down and up again, with a Flatten-Dense-Reshape bottleneck and a skip."""
    x = keras.Input((8, 8, 1))
    h = layers.Conv2D(6, 3, padding="same", use_bias=False)(x)
    skip = layers.ReLU()(layers.BatchNormalization()(h))
    h = layers.MaxPooling2D()(skip)
    h = layers.Conv2D(5, 3, strides=2, padding="same", activation="elu")(h)
    h = layers.Dense(3)(layers.Flatten()(h))
    h = layers.Dense(2 * 2 * 4, "relu")(h)
    h = layers.Reshape((2, 2, 4))(h)
    h = layers.Conv2DTranspose(6, 3, strides=2, padding="same")(h)
    h = layers.UpSampling2D()(h)
    h = layers.Concatenate()([layers.PReLU(shared_axes=[1, 2])(h), skip])
    h = layers.SpatialDropout2D(0.1)(layers.Conv2D(5, 1, activation="gelu")(h))
    return Model(x, layers.Conv2D(1, 3, padding="same")(h))


def depthwise() -> Model:
    x = keras.Input((8, 8, 2))
    h = layers.ZeroPadding2D(1)(layers.Conv2D(6, 3, activation="relu")(x))
    h = layers.DepthwiseConv2D(3, depth_multiplier=2)(h)
    h = layers.Cropping2D(1)(layers.AveragePooling2D(1)(h))
    h = layers.SeparableConv2D(8, 3, padding="same", depth_multiplier=2, activation="relu")(h)
    h = layers.Conv2D(12, 3, padding="same", groups=4)(h)
    h = layers.GroupNormalization(groups=3)(layers.Conv2D(6, 1)(h))
    h = layers.GlobalAveragePooling2D()(h)
    h = layers.Dense(3)(h)
    return Model(x, layers.Dense(5)(layers.Dense(6)(h)))


def squeeze_and_excite() -> Model:
    x = keras.Input((6, 6, 2))
    h = layers.Conv2D(8, 3, padding="same", activation="relu")(x)
    gate = layers.GlobalMaxPooling2D(keepdims=True)(h)
    gate = layers.Conv2D(4, 1, activation="relu")(gate)
    gate = layers.Conv2D(8, 1, activation="sigmoid")(gate)
    h = layers.Multiply()([h, gate])
    where = layers.Conv2D(1, 1, activation="sigmoid")(h)
    return Model(x, layers.Conv2D(2, 1)(layers.Conv2D(5, 1)(layers.Multiply()([h, where]))))


def sequences() -> Model:
    x = keras.Input((10, 2))
    h = layers.Conv1D(6, 3, padding="same", activation="relu")(x)
    h = layers.SeparableConv1D(7, 3, padding="same")(h)
    h = layers.DepthwiseConv1D(3, padding="same")(h)
    h = layers.Conv1DTranspose(5, 2, strides=2)(layers.MaxPooling1D()(h))
    h = layers.Cropping1D(1)(layers.ZeroPadding1D(1)(layers.UpSampling1D(1)(h)))
    return Model(x, layers.Conv1D(2, 1)(layers.Dense(4, "relu")(h)))


def volumes() -> Model:
    x = keras.Input((4, 4, 4, 1))
    h = layers.Conv3D(4, 2, padding="same", activation="relu")(x)
    h = layers.Conv3DTranspose(3, 2, padding="same")(layers.AveragePooling3D(2)(h))
    return Model(x, layers.Conv3D(1, 1)(layers.UpSampling3D()(h)))


def channels_first() -> Model:
    """What needs no kernel that only runs channels-last on a CPU."""
    x = keras.Input((3, 4, 4))
    h = layers.PReLU(shared_axes=[2, 3])(layers.BatchNormalization(axis=1)(x))
    h = layers.Dense(16)(layers.Flatten(data_format="channels_first")(h))
    h = layers.Reshape((4, 2, 2))(layers.Dense(16, "relu")(h))
    h = layers.UpSampling2D(data_format="channels_first")(layers.BatchNormalization(axis=1)(h))
    h = layers.ZeroPadding2D(1, data_format="channels_first")(h)
    h = layers.Cropping2D(1, data_format="channels_first")(h)
    h = layers.GlobalAveragePooling2D(data_format="channels_first")(h)
    return Model(x, layers.Dense(5)(h))


def nested() -> Model:
    a = keras.Input((12,), name="a")
    h = layers.Dense(8, "relu", name="hidden")(a)
    encoder = Model(a, layers.Dense(4, name="last")(h), name="encoder")
    decoder = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(8, "relu", name="hidden"),
            layers.BatchNormalization(),
            layers.Dense(12, name="last"),
        ],
        name="decoder",
    )
    x = keras.Input((12,))
    return Model(x, decoder(encoder(x)), name="autoencoder")


def nested_cut_through() -> Model:
    """Units that are made in one nested model and read in another, and in both of its calls."""
    a = keras.Input((12,), name="a")
    front = Model(a, layers.Dense(8, "relu")(a), name="front")
    b = keras.Input((8,), name="b")
    middle = Model(b, layers.Add()([layers.Dense(8, "tanh")(b), b]), name="middle")
    x = keras.Input((12,))
    h = middle(middle(front(x)))
    h = layers.Dense(3)(h)
    return Model(x, layers.Dense(12)(layers.Dense(6)(h)))


def shared() -> Model:
    left, right = keras.Input((6,), name="left"), keras.Input((6,), name="right")
    layer = layers.Dense(8, "relu", name="shared")
    again = layers.Dense(8, "relu", name="again")
    a, b = layer(left), layer(right)
    h = layers.Average()([again(a), again(again(b))])
    h = layers.Dense(3)(layers.Concatenate()([h, a]))
    return Model([left, right], layers.Dense(6)(layers.Dense(5)(h)))


def operations() -> Model:
    """`keras.ops` nodes: element-wise, slices, splits, constants, a reshape and a mean."""
    x = keras.Input((12,))
    h = layers.Dense(12)(x)
    h = ops.relu(h) * 2.0 + 1.0
    first, second = ops.split(h, 2, axis=-1)
    h = ops.concatenate([first * second, h[:, 3:9], ops.exp(-h)[..., -4:]], axis=-1)
    h = layers.Dense(24, "relu")(h)
    h = ops.mean(layers.Dense(6)(ops.reshape(h, (-1, 4, 6))), axis=1)
    h = layers.Dense(3)(h)
    mean, spread = ops.split(layers.Dense(8)(h), [4], axis=1)
    return Model(x, layers.Dense(12)(mean + ops.softplus(spread)))


def einsum() -> Model:
    x = keras.Input((5, 6))
    h = layers.EinsumDense("abc,cd->abd", (None, 8), "relu", bias_axes="d")(x)
    h = layers.EinsumDense("...x,xuh->...uh", (4, 3), bias_axes="uh")(h)
    h = layers.EinsumDense("bsuh,uhm->bsm", (None, 7), bias_axes="m")(h)
    h = layers.EinsumDense("abc,c->abc", (None, 7), bias_axes="c")(h)
    return Model(x, layers.EinsumDense("...x,xy->...y", 6)(h))


def attention() -> Model:
    x = keras.Input((5, 8))
    h = layers.Dense(8)(x)
    h = layers.Add()([h, layers.MultiHeadAttention(4, 3, value_dim=2)(h, h)])
    h = layers.GroupQueryAttention(3, 4, 2)(h, h)
    h = layers.MultiHeadAttention(2, 3, output_shape=9)(h, x, key=x)
    h = layers.Dense(6, "gelu")(h)
    return Model(x, layers.Dense(8)(h))


def recurrent() -> Model:
    x = keras.Input((6, 3))
    h = layers.LSTM(7, return_sequences=True)(x)
    h = layers.GRU(6, return_sequences=True, reset_after=True)(h)
    h = layers.GRU(5, return_sequences=True, reset_after=False)(h)
    h = layers.SimpleRNN(4)(h)
    h = layers.RepeatVector(6)(h)
    return Model(x, layers.Dense(3)(layers.LSTM(5, return_sequences=True)(h)))


def tokens() -> Model:
    """A mask beside the units, and integers that are none."""
    x = keras.Input((7,), dtype="int32")
    h = layers.LSTM(6)(layers.Embedding(9, 8, mask_zero=True)(x))
    h = layers.RepeatVector(7)(layers.Dense(3)(h))
    return Model(x, layers.Dense(9, "softmax")(layers.GRU(5, return_sequences=True)(h)))


def tiles() -> Model:
    """Channels that become positions and the other way round."""
    x = keras.Input((4, 4, 3), batch_size=3)
    h = layers.Conv2D(8, 3, padding="same", activation="relu")(x)
    h = layers.Conv2D(12, 3, padding="same")(ops.depth_to_space(h, 2))
    h = layers.Rescaling(0.5)(layers.Resizing(4, 4)(ops.space_to_depth(h, 2)))
    h = layers.Dense(4)(ops.max(h, axis=(1, 2)))
    h = ops.reshape(layers.Dense(16, "relu")(h), (3, 2, 2, 4))
    return Model(x, layers.Conv2DTranspose(3, 2, strides=2)(h))


def wrapped() -> Model:
    x = keras.Input((6, 3))
    h = layers.Bidirectional(layers.LSTM(4, return_sequences=True))(x)
    h = layers.Bidirectional(layers.GRU(5, return_sequences=True), merge_mode="sum")(h)
    h = layers.TimeDistributed(layers.Dense(7, "relu"))(h)
    h = layers.LSTM(3)(h)
    h = layers.LSTM(6, return_sequences=True)(layers.RepeatVector(6)(h))
    return Model(x, layers.TimeDistributed(layers.Dense(3))(h))


def normalized() -> Model:
    """Normalizations over units, which see when some leave."""
    x = keras.Input((5, 6))
    h = layers.LayerNormalization()(layers.Dense(8, "relu")(x))
    h = layers.RMSNormalization()(layers.Add()([layers.Dense(8)(h), h]))
    h = layers.GroupNormalization(groups=1)(layers.Conv1D(7, 1)(h))
    h = layers.Dense(3)(h)
    return Model(x, layers.Dense(6)(layers.LayerNormalization(axis=[1, 2])(layers.Dense(4)(h))))


def permuted() -> Model:
    x = keras.Input((4, 6))
    h = layers.Dense(8, "relu")(x)
    h = layers.Permute((2, 1))(h)
    h = layers.BatchNormalization(axis=1)(h)
    h = layers.Permute((2, 1))(h)
    h = layers.Flatten()(layers.Dense(5)(h))
    return Model(x, layers.Dense(6)(h))


def positions() -> Model:
    """Positions picked and mixed while units pass, and units where a wrapper has its steps."""
    x = keras.Input((6, 4))
    h = layers.Conv1D(6, 3, padding="same", activation="relu")(x)[:, ::2]
    h = layers.EinsumDense("abc,bd->adc", (2, 6))(h)
    h = layers.Reshape((4, 2))(layers.Dense(8)(layers.Dense(3)(layers.Flatten()(h))))
    h = layers.TimeDistributed(layers.Dense(5))(h)
    return Model(x, layers.Dense(4)(layers.LSTM(6)(h)))


def mixed_precision() -> Model:
    x = keras.Input((12,))
    h = layers.Dense(8, "relu", dtype="mixed_bfloat16")(x)
    h = layers.Dense(8, dtype="float64")(h)
    return Model(x, layers.Dense(12, dtype="float32")(layers.Dense(8)(h)))


MODELS: dict[str, Callable[[], Model]] = {
    function.__name__: function
    for function in (
        mlp, skips, convolutional, depthwise, squeeze_and_excite, sequences, volumes,
        channels_first, nested, nested_cut_through, shared, operations, einsum, attention,
        recurrent, tokens, tiles, wrapped, normalized, permuted, positions, mixed_precision,
    )
}  # fmt: skip

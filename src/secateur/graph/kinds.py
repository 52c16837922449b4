"""Kinds of layers by what they do, for whoever must tell one kind from another."""

from __future__ import annotations

from keras import layers

CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
CONVOLVING = (*CONVOLUTIONS, *TRANSPOSED, *DEPTHWISE, *SEPARABLE)
RECURRENT = (layers.SimpleRNN, layers.GRU, layers.LSTM)
ATTENTION = (layers.MultiHeadAttention, layers.GroupQueryAttention)

"""LSTM and GRU layers (Hochreiter and Schmidhuber, 1997; Cho et al., 2014) of any number of steps, as operators.

torch unrolls its recurrent layers when it traces them: a graph for one length, and a long one. The operators here
translate to a Scan over the steps, and another for the gradient. What needs no recurrence, the products with the input
and the gradients of the weights, stays outside, as one matrix product each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# A layer in one direction: x [steps, batch, features], initial states [batch, hidden] and weights as in nn.LSTM and
# nn.GRU -> h [steps, batch, hidden] and the final states [batch, hidden].
_Layer = Callable[[Tensor, list[Tensor], Sequence[Tensor]], tuple[Tensor, list[Tensor]]]


@torch.library.custom_op("t2tdeploy::lstm_steps", mutates_args=())
def lstm_steps(z: Tensor, h0: Tensor, c0: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The recurrence of an LSTM.

    Args:
        z: [steps, batch, 4 hidden], what the input and the biases give to the gates i, f, g, o.
        h0: [batch, hidden]
        c0: [batch, hidden]
        weight: [4 hidden, hidden]

    Returns:
        h and c after each step [steps, batch, hidden], and the gates after their nonlinearity [steps, batch, 4 hidden].
        The last is for the gradient and has none itself.
    """
    states, cells, gates, h, c = [], [], [], h0, c0
    for step in z:
        i, f, g, o = (step + h @ weight.T).chunk(4, -1)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        c = f * c + i * g
        h = o * c.tanh()
        states.append(h)
        cells.append(c)
        gates.append(torch.cat([i, f, g, o], -1))
    return torch.stack(states), torch.stack(cells), torch.stack(gates)


@lstm_steps.register_fake
def _(z: Tensor, h0: Tensor, c0: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    states = z.new_empty(z.size(0), z.size(1), h0.size(1))
    return states, torch.empty_like(states), torch.empty_like(z)


@torch.library.custom_op("t2tdeploy::lstm_steps_backward", mutates_args=())
def lstm_steps_backward(
    dh: Tensor, dc: Tensor, cells: Tensor, before: Tensor, gates: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of `lstm_steps`, from the last step to the first.

    Args:
        dh: gradient to h, [steps, batch, hidden]
        dc: gradient to c, [steps, batch, hidden]
        cells: c after each step
        before: c before each step
        gates: after their nonlinearity
        weight: [4 hidden, hidden]

    Returns:
        gradients to z [steps, batch, 4 hidden], to h0 and to c0 [batch, hidden].
    """
    dz, dh_next, dc_next = [], torch.zeros_like(dh[0]), torch.zeros_like(dh[0])
    for step in reversed(range(len(dh))):
        i, f, g, o = gates[step].chunk(4, -1)
        t = cells[step].tanh()
        to_h = dh[step] + dh_next
        to_c = dc[step] + dc_next + to_h * o * (1 - t * t)
        parts = [to_c * g * i * (1 - i), to_c * before[step] * f * (1 - f), to_c * i * (1 - g * g)]
        dz.append(torch.cat([*parts, to_h * t * o * (1 - o)], -1))
        dh_next, dc_next = dz[-1] @ weight, to_c * f
    return torch.stack(dz[::-1]), dh_next, dc_next


@lstm_steps_backward.register_fake
def _(
    dh: Tensor, dc: Tensor, cells: Tensor, before: Tensor, gates: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    state = dh.new_empty(dh.size(1), dh.size(2))
    return torch.empty_like(gates), state, torch.empty_like(state)


def _lstm_save(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    _, h0, c0, weight = inputs
    ctx.save_for_backward(h0, c0, weight, *output)


def _lstm_backward(ctx: Any, dh: Tensor, dc: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    h0, c0, weight, states, cells, gates = ctx.saved_tensors
    dz, dh0, dc0 = lstm_steps_backward(dh, dc, cells, _shifted(c0, cells), gates, weight)
    return dz, dh0, dc0, _summed_product(dz, _shifted(h0, states))


lstm_steps.register_autograd(_lstm_backward, setup_context=_lstm_save)


@torch.library.custom_op("t2tdeploy::gru_steps", mutates_args=())
def gru_steps(z: Tensor, h0: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The recurrence of a GRU.

    Args:
        z: [steps, batch, 3 hidden], what the input and its bias give to the gates r, u and the candidate n.
        h0: [batch, hidden]
        weight: [3 hidden, hidden]
        bias: [3 hidden], of the product with h.

    Returns:
        h after each step [steps, batch, hidden], and r, u, n and h's share of n before r [steps, batch, 4 hidden]. The
        last is for the gradient and has none itself.
    """
    states, gates, h = [], [], h0
    for step in z:
        (zr, zu, zn), (hr, hu, hn) = step.chunk(3, -1), (h @ weight.T + bias).chunk(3, -1)
        r, u = (zr + hr).sigmoid(), (zu + hu).sigmoid()
        n = (zn + r * hn).tanh()
        h = n + u * (h - n)
        states.append(h)
        gates.append(torch.cat([r, u, n, hn], -1))
    return torch.stack(states), torch.stack(gates)


@gru_steps.register_fake
def _(z: Tensor, h0: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    hidden = h0.size(1)
    return z.new_empty(z.size(0), z.size(1), hidden), z.new_empty(z.size(0), z.size(1), 4 * hidden)


@torch.library.custom_op("t2tdeploy::gru_steps_backward", mutates_args=())
def gru_steps_backward(dh: Tensor, before: Tensor, gates: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of `gru_steps`, from the last step to the first.

    Args:
        dh: gradient to h, [steps, batch, hidden]
        before: h before each step
        gates: r, u, n and h's share of n
        weight: [3 hidden, hidden]

    Returns:
        gradients to z and to the product with h [steps, batch, 3 hidden], and to h0 [batch, hidden].
    """
    dz, dp, dh_next = [], [], torch.zeros_like(dh[0])
    for step in reversed(range(len(dh))):
        r, u, n, hn = gates[step].chunk(4, -1)
        to_h = dh[step] + dh_next
        to_n = to_h * (1 - u) * (1 - n * n)
        to_r = to_n * hn * r * (1 - r)
        to_u = to_h * (before[step] - n) * u * (1 - u)
        dz.append(torch.cat([to_r, to_u, to_n], -1))
        dp.append(torch.cat([to_r, to_u, to_n * r], -1))
        dh_next = to_h * u + dp[-1] @ weight
    return torch.stack(dz[::-1]), torch.stack(dp[::-1]), dh_next


@gru_steps_backward.register_fake
def _(dh: Tensor, before: Tensor, gates: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    dz = dh.new_empty(dh.size(0), dh.size(1), weight.size(0))
    return dz, torch.empty_like(dz), dh.new_empty(dh.size(1), dh.size(2))


def _gru_save(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    _, h0, weight, _ = inputs
    ctx.save_for_backward(h0, weight, *output)


def _gru_backward(ctx: Any, dh: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    h0, weight, states, gates = ctx.saved_tensors
    before = _shifted(h0, states)
    dz, dp, dh0 = gru_steps_backward(dh, before, gates, weight)
    return dz, dh0, _summed_product(dp, before), dp.sum((0, 1))


gru_steps.register_autograd(_gru_backward, setup_context=_gru_save)


def _shifted(first: Tensor, states: Tensor) -> Tensor:
    """States after each step -> states before each step."""
    return torch.cat([first.unsqueeze(0), states[:-1]])


def _summed_product(gradient: Tensor, states: Tensor) -> Tensor:
    """The gradient to a weight: the sum over steps and batch of their outer products."""
    return gradient.flatten(0, 1).T @ states.flatten(0, 1)


def lstm(x: Tensor, initial: Sequence[Tensor], *options: Any) -> tuple[Tensor, Tensor, Tensor]:
    """torch.lstm of a padded batch, without projections: the same arguments and results."""
    output, (h, c) = _layers(_lstm_layer, x, initial, *options)
    return output, h, c


def gru(x: Tensor, initial: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    """torch.gru of a padded batch: the same arguments and results."""
    output, (h,) = _layers(_gru_layer, x, [initial], *options)
    return output, h


def _layers(
    layer: _Layer,
    x: Tensor,
    initial: Sequence[Tensor],
    weights: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, list[Tensor]]:
    """All layers and directions, with the arguments of torch.lstm and torch.gru."""
    x = x.transpose(0, 1) if batch_first else x
    directions, each = 1 + bidirectional, 2 + 2 * has_biases
    final: list[list[Tensor]] = []
    for number in range(num_layers):
        outputs = []
        for direction in range(directions):
            place = number * directions + direction
            start = [state[place] for state in initial]
            ordered = x.flip(0) if direction else x
            h, last = layer(ordered, start, weights[place * each : (place + 1) * each])
            outputs.append(h.flip(0) if direction else h)
            final.append(last)
        x = torch.cat(outputs, -1) if bidirectional else outputs[0]
        if dropout and number < num_layers - 1:
            x = F.dropout(x, dropout, train)
    x = x.transpose(0, 1) if batch_first else x
    return x, [torch.stack(states) for states in zip(*final, strict=True)]


def _lstm_layer(x: Tensor, initial: list[Tensor], weights: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    of_input, of_state, *biases = weights
    z = F.linear(x, of_input, biases[0] + biases[1] if biases else None)
    h, c, _ = lstm_steps(*_wide(z, *initial, of_state))
    return h.to(x.dtype), [h[-1].to(x.dtype), c[-1].to(x.dtype)]


def _gru_layer(x: Tensor, initial: list[Tensor], weights: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    of_input, of_state, *biases = weights
    z = F.linear(x, of_input, biases[0] if biases else None)
    bias = biases[1] if biases else of_state.new_zeros(of_state.size(0))
    h, _ = gru_steps(*_wide(z, *initial, of_state, bias))
    return h.to(x.dtype), [h[-1].to(x.dtype)]


def _wide(*tensors: Tensor) -> list[Tensor]:
    """In float32 at least: a recurrence adds up its rounding, and autocast does not know these operators."""
    return [tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor for tensor in tensors]

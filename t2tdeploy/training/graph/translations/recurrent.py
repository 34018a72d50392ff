"""The recurrences of LSTM and GRU layers, and their gradients, as Scans; see recurrent.py for the formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import onnxscript
import torch
from onnx import parser
from onnx.defs import OpSchema

import t2tdeploy.training.graph.recurrent  # noqa: F401  # defines the operators

_LSTM = """
<opset_import: ["" : 18], domain: "t2tdeploy">
LstmSteps (z, h0, c0, weight) => (states, cells, gates)
{
    weight_t = Transpose <perm = [1, 0]> (weight)
    h_last, c_last, states, cells, gates = Scan <num_scan_inputs = 1, body = step
        (float[b, h] h, float[b, h] c, float[b, z] z_t)
        => (float[b, h] h_new, float[b, h] c_new, float[b, h] h_out, float[b, h] c_out, float[b, z] gates_t)
        {
            product = MatMul (h, weight_t)
            sum = Add (z_t, product)
            zi, zf, zg, zo = Split <axis = -1, num_outputs = 4> (sum)
            i = Sigmoid (zi)
            f = Sigmoid (zf)
            g = Tanh (zg)
            o = Sigmoid (zo)
            kept = Mul (f, c)
            added = Mul (i, g)
            c_new = Add (kept, added)
            t = Tanh (c_new)
            h_new = Mul (o, t)
            h_out = Identity (h_new)
            c_out = Identity (c_new)
            gates_t = Concat <axis = -1> (i, f, g, o)
        }> (h0, c0, z)
}
"""

_LSTM_BACKWARD = """
<opset_import: ["" : 18], domain: "t2tdeploy">
LstmStepsBackward (dh, dc, cells, before, gates, weight) => (dz, dh0, dc0)
{
    one = Constant <value = float {1}> ()
    first = Constant <value_int = 0> ()
    dh_first = Gather <axis = 0> (dh, first)
    shape = Shape (dh_first)
    zeros = ConstantOfShape (shape)
    dh0, dc0, dz = Scan <num_scan_inputs = 5, scan_input_directions = [1, 1, 1, 1, 1], scan_output_directions = [1],
        body = step
        (float[b, h] dh_next, float[b, h] dc_next, float[b, h] dh_t, float[b, h] dc_t, float[b, h] c,
         float[b, h] c_before, float[b, z] gates_t)
        => (float[b, h] dh_out, float[b, h] dc_out, float[b, z] dz_t)
        {
            i, f, g, o = Split <axis = -1, num_outputs = 4> (gates_t)
            t = Tanh (c)
            to_h = Add (dh_t, dh_next)
            to_c_later = Add (dc_t, dc_next)
            to_t = Mul (to_h, o)
            tt = Mul (t, t)
            t_slope = Sub (one, tt)
            to_c_now = Mul (to_t, t_slope)
            to_c = Add (to_c_later, to_c_now)
            i_rest = Sub (one, i)
            i_slope = Mul (i, i_rest)
            to_i = Mul (to_c, g)
            dzi = Mul (to_i, i_slope)
            f_rest = Sub (one, f)
            f_slope = Mul (f, f_rest)
            to_f = Mul (to_c, c_before)
            dzf = Mul (to_f, f_slope)
            gg = Mul (g, g)
            g_slope = Sub (one, gg)
            to_g = Mul (to_c, i)
            dzg = Mul (to_g, g_slope)
            o_rest = Sub (one, o)
            o_slope = Mul (o, o_rest)
            to_o = Mul (to_h, t)
            dzo = Mul (to_o, o_slope)
            dz_t = Concat <axis = -1> (dzi, dzf, dzg, dzo)
            dh_out = MatMul (dz_t, weight)
            dc_out = Mul (to_c, f)
        }> (zeros, zeros, dh, dc, cells, before, gates)
}
"""

_GRU = """
<opset_import: ["" : 18], domain: "t2tdeploy">
GruSteps (z, h0, weight, bias) => (states, gates)
{
    weight_t = Transpose <perm = [1, 0]> (weight)
    h_last, states, gates = Scan <num_scan_inputs = 1, body = step
        (float[b, h] h, float[b, z] z_t) => (float[b, h] h_new, float[b, h] h_out, float[b, g] gates_t)
        {
            product = MatMul (h, weight_t)
            p = Add (product, bias)
            zr, zu, zn = Split <axis = -1, num_outputs = 3> (z_t)
            hr, hu, hn = Split <axis = -1, num_outputs = 3> (p)
            r_sum = Add (zr, hr)
            r = Sigmoid (r_sum)
            u_sum = Add (zu, hu)
            u = Sigmoid (u_sum)
            reset = Mul (r, hn)
            n_sum = Add (zn, reset)
            n = Tanh (n_sum)
            apart = Sub (h, n)
            kept = Mul (u, apart)
            h_new = Add (n, kept)
            h_out = Identity (h_new)
            gates_t = Concat <axis = -1> (r, u, n, hn)
        }> (h0, z)
}
"""

_GRU_BACKWARD = """
<opset_import: ["" : 18], domain: "t2tdeploy">
GruStepsBackward (dh, before, gates, weight) => (dz, dp, dh0)
{
    one = Constant <value = float {1}> ()
    first = Constant <value_int = 0> ()
    dh_first = Gather <axis = 0> (dh, first)
    shape = Shape (dh_first)
    zeros = ConstantOfShape (shape)
    dh0, dz, dp = Scan <num_scan_inputs = 3, scan_input_directions = [1, 1, 1], scan_output_directions = [1, 1],
        body = step
        (float[b, h] dh_next, float[b, h] dh_t, float[b, h] h_before, float[b, g] gates_t)
        => (float[b, h] dh_out, float[b, z] dz_t, float[b, z] dp_t)
        {
            r, u, n, hn = Split <axis = -1, num_outputs = 4> (gates_t)
            to_h = Add (dh_t, dh_next)
            u_rest = Sub (one, u)
            nn = Mul (n, n)
            n_slope = Sub (one, nn)
            to_candidate = Mul (to_h, u_rest)
            to_n = Mul (to_candidate, n_slope)
            r_rest = Sub (one, r)
            r_slope = Mul (r, r_rest)
            to_reset = Mul (to_n, hn)
            to_r = Mul (to_reset, r_slope)
            apart = Sub (h_before, n)
            u_slope = Mul (u, u_rest)
            to_update = Mul (to_h, apart)
            to_u = Mul (to_update, u_slope)
            to_p = Mul (to_n, r)
            dz_t = Concat <axis = -1> (to_r, to_u, to_n)
            dp_t = Concat <axis = -1> (to_r, to_u, to_p)
            through = MatMul (dp_t, weight)
            kept = Mul (to_h, u)
            dh_out = Add (kept, through)
        }> (zeros, dh, before, gates)
}
"""

FUNCTIONS = tuple(parser.parse_function(text) for text in (_LSTM, _LSTM_BACKWARD, _GRU, _GRU_BACKWARD))


def _operator(function: onnx.FunctionProto) -> onnxscript.values.Op:
    """The function as an operator that torch.onnx can call in a translation."""
    schema = OpSchema(
        function.name,
        function.domain,
        1,
        inputs=[OpSchema.FormalParameter(name, "T") for name in function.input],
        outputs=[OpSchema.FormalParameter(name, "T") for name in function.output],
        type_constraints=[("T", ["tensor(float)"], "")],
    )
    return onnxscript.values.Op(onnxscript.values.Opset(function.domain, 1), function.name, schema)


_lstm, _lstm_backward, _gru, _gru_backward = map(_operator, FUNCTIONS)


def lstm_steps(z: Any, h0: Any, c0: Any, weight: Any) -> Any:
    """A call of LstmSteps."""
    return _lstm(z, h0, c0, weight)


def lstm_steps_backward(dh: Any, dc: Any, cells: Any, before: Any, gates: Any, weight: Any) -> Any:
    """A call of LstmStepsBackward."""
    return _lstm_backward(dh, dc, cells, before, gates, weight)


def gru_steps(z: Any, h0: Any, weight: Any, bias: Any) -> Any:
    """A call of GruSteps."""
    return _gru(z, h0, weight, bias)


def gru_steps_backward(dh: Any, before: Any, gates: Any, weight: Any) -> Any:
    """A call of GruStepsBackward."""
    return _gru_backward(dh, before, gates, weight)


TABLE: dict[Any, Callable[..., Any]] = {
    torch.ops.t2tdeploy.lstm_steps.default: lstm_steps,
    torch.ops.t2tdeploy.lstm_steps_backward.default: lstm_steps_backward,
    torch.ops.t2tdeploy.gru_steps.default: gru_steps,
    torch.ops.t2tdeploy.gru_steps_backward.default: gru_steps_backward,
}

"""What torch has no single function for, in torch's own words: live modules call these, `net.py` files hold their text.

Imports torch at the top: it is imported only when something is executed (`torch_source` reads it as text). Functions that
stand for an IR op have its name and operand order; all stand on their own and must not name anything of ours.
"""

import torch
import torch.nn.functional as F


def topk(x, k, axis, largest):
    """The k largest (or smallest) elements along an axis, sorted; of equal ones the first."""
    values, indices = torch.sort(x, dim=axis, descending=largest, stable=True)
    return values.narrow(axis, 0, k), indices.narrow(axis, 0, k)


def from_front(indices, size):
    """Negative indices counted from the end, as positions."""
    return torch.where(indices < 0, indices + size, indices).to(torch.int64)


def gather_elements(x, indices, axis):
    return torch.gather(x, axis, from_front(indices, x.shape[axis]))


def gather_nd(x, indices):
    """The last axis of `indices` names positions on the first axes of x."""
    return x[tuple(indices.unbind(-1))]


def scatter_elements(x, indices, updates, axis, reduction):
    indices = from_front(indices, x.shape[axis])
    if reduction == "none":
        return x.scatter(axis, indices, updates)
    names = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
    return x.scatter_reduce(axis, indices, updates, names[reduction])


def scatter_nd(x, indices, updates, reduction):
    if reduction in ("none", "add"):
        return x.index_put(tuple(indices.unbind(-1)), updates, accumulate=reduction == "add")
    rows = torch.zeros_like(indices[..., 0])
    count = indices.shape[-1]
    for i, size in enumerate(x.shape[:count]):
        rows = rows * size + from_front(indices[..., i], size)
    flat, rows = x.flatten(0, count - 1), rows.reshape(-1)
    updates = updates.reshape(rows.shape[0], *flat.shape[1:])
    rows = rows.reshape(-1, *[1] * (flat.dim() - 1)).expand_as(updates)
    return flat.scatter_reduce(0, rows, updates, {"mul": "prod", "max": "amax", "min": "amin"}[reduction]).reshape(
        x.shape
    )


def non_zero(x):
    """Positions of what is not zero, [rank, count]."""
    return torch.nonzero(x).t()


def max_pool_with_indices(x, kernel_size, stride, padding, dilation, ceil_mode):
    """torch counts positions within a channel, ONNX within the whole tensor."""
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[x.dim() - 3]
    y, indices = pool(x, kernel_size, stride, padding, dilation, ceil_mode=ceil_mode, return_indices=True)
    planes = torch.arange(x.shape[0] * x.shape[1], device=x.device).reshape(
        x.shape[0], x.shape[1], *[1] * (x.dim() - 2)
    )
    return y, indices + planes * x[0, 0].numel()


def int_tensor(values, shape, dtype, device):
    """Sizes as a tensor."""
    return torch.stack([torch.full((), value, dtype=dtype, device=device) for value in values]).reshape(shape)


def gates(weights, order):
    """Blocks of rows in another order, one block for each gate."""
    blocks = weights.chunk(len(order), 0)
    return torch.cat([blocks[i] for i in order], 0)


def cells(w, r, b, order):
    """The parameters of each direction as torch's functions take them."""
    found = []
    for i in range(w.shape[0]):
        found += [gates(w[i], order), gates(r[i], order)]
        if b is not None:
            found += [gates(half, order) for half in b[i].chunk(2, 0)]
    return found


def by_direction(y, count):
    """[T, B, D * H] to [T, D, B, H]."""
    return y.unflatten(2, (count, -1)).transpose(1, 2)


def initial(x, w, r, state):
    """The given state, or zeros."""
    return x.new_zeros(w.shape[0], x.shape[1], r.shape[2]) if state is None else state


def turned(x, direction):
    return x.flip(0) if direction == "reverse" else x


def training():
    """Whether a gradient may be wanted: cuDNN keeps what that takes only when told so. There is no dropout to change."""
    return torch.is_grad_enabled()


def lstm(x, w, r, b, h0, c0, direction):
    """ONNX's gates are i, o, f, c; torch's i, f, c, o."""
    count = w.shape[0]
    states = (initial(x, w, r, h0), initial(x, w, r, c0))
    params = cells(w, r, b, (0, 2, 3, 1))
    y, h, c = torch.lstm(turned(x, direction), states, params, b is not None, 1, 0.0, training(), count == 2, False)
    return turned(by_direction(y, count), direction), h, c


def gru(x, w, r, b, h0, direction):
    """ONNX's gates are z, r, h; torch's r, z, h."""
    count = w.shape[0]
    params = cells(w, r, b, (1, 0, 2))
    y, h = torch.gru(
        turned(x, direction), initial(x, w, r, h0), params, b is not None, 1, 0.0, training(), count == 2, False
    )
    return turned(by_direction(y, count), direction), h


def rnn(x, w, r, b, h0, direction, activations=()):
    count = w.shape[0]
    run = torch.rnn_relu if "relu" in activations else torch.rnn_tanh
    params = cells(w, r, b, (0,))
    y, h = run(turned(x, direction), initial(x, w, r, h0), params, b is not None, 1, 0.0, training(), count == 2, False)
    return turned(by_direction(y, count), direction), h


def quantized_operators():
    """torch registers the operators of PT2E quantisation when this module of its own is imported."""
    import torch.ao.quantization.fx._decomposed

    return torch.ops.quantized_decomposed


def quantize_per_tensor(x, scale, zero_point, low, high, dtype):
    return quantized_operators().quantize_per_tensor(x, scale, zero_point, low, high, dtype)


def dequantize_per_tensor(x, scale, zero_point, low, high):
    return quantized_operators().dequantize_per_tensor(x, scale, zero_point, low, high, x.dtype)


def quantize_per_channel(x, scale, zero_point, axis, low, high, dtype):
    scales = scale.flatten()
    zeros = torch.zeros_like(scales, dtype=torch.int64) if zero_point is None else zero_point.flatten().to(torch.int64)
    return quantized_operators().quantize_per_channel(x, scales, zeros, axis, low, high, dtype)


def dequantize_per_channel(x, scale, zero_point, axis, low, high):
    zeros = None if zero_point is None else zero_point.flatten()
    return quantized_operators().dequantize_per_channel(x, scale.flatten(), zeros, axis, low, high, x.dtype)


def straight_round(x):
    """Rounded half to even, with the gradient of x."""
    return torch.round(x).detach() + (x - x.detach()).nan_to_num()

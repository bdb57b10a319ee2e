"""Two ONNX models in ONNX's text form: one of control flow, one that is the head of a detector. Imports onnx when called."""

from __future__ import annotations

#: A Loop with a nested If that reads an outer value, a Scan, an If over a constant, a function with an attribute, and
#: reshapes by computed shapes.
CONTROL_FLOW = """
<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
control_flow (float[N, C] x, int64 steps) => (float[N, C] y, float[S] sums, float[N, C] running, float[M] flat)
<int64[1] last = {-1}, int64[1] front = {0}, float half = {0.5},
 float zero = {0.0}, bool always = {1}>
{
    activated = local.gelu <scale = 1.25> (x)
    state, sums = Loop (steps, always, activated) <body = body (int64 i, bool going, float[N, C] current)
        => (bool again, float[N, C] next, float total)
    {
        two = Constant <value_int = 2> ()
        odd = Mod (i, two)
        is_odd = Cast <to = 9> (odd)
        total = ReduceSum <keepdims = 0> (current)
        next = If (is_odd) <then_branch = halve () => (float[N, C] halved) { halved = Mul (current, half) },
            else_branch = choose () => (float[N, C] chosen)
            {
                positive = Greater (total, zero)
                chosen = If (positive) <then_branch = lower () => (float[N, C] a) { a = Sub (current, x) },
                    else_branch = raise () => (float[N, C] b) { b = Add (current, x) }>
            }>
        again = Identity (going)
    }>
    shape = Shape (x)
    width = Gather <axis = 0> (shape, last)
    start = ConstantOfShape <value = float[1] {0.0}> (width)
    ends, running = Scan <num_scan_inputs = 1, body = step (float[C] before, float[C] row) => (float[C] after, float[C] out)
    {
        after = Add (before, row)
        out = Mul (after, half)
    }> (start, state)
    picked = If (always) <then_branch = yes () => (float[N, C] p) { p = local.gelu (state) },
        else_branch = no () => (float[N, C] q) { q = Neg (state) }>
    count = Size (x)
    counts = Unsqueeze (count, front)
    flat = Reshape (running, counts)
    back = Reshape (flat, shape)
    y = Add (back, picked)
}
<domain: "local", opset_import: ["" : 17]>
gelu <scale: float = 1.0> (x) => (y)
{
    root = Constant <value_float = 1.4142135> ()
    unit = Constant <value_float = 1.0> ()
    half = Constant <value_float = 0.5> ()
    factor = Constant <value_float: float = @scale> ()
    scaled = Div (x, root)
    e = Erf (scaled)
    shifted = Add (e, unit)
    gated = Mul (x, shifted)
    halved = Mul (gated, half)
    y = Mul (halved, factor)
}
"""

#: Boxes from centres and sizes, suppression per class, the survivors' boxes and scores, the best five of them.
DETECTOR = """
<ir_version: 8, opset_import: ["" : 17]>
detector (float[1, A, 4] boxes, float[1, K, A] logits) => (float[D, 4] kept, float[T] best, int64[T] places, int64[D] classes)
<int64[2] halves = {2, 2}, float half = {0.5}, int64[1] limit = {8}, float[1] iou = {0.4}, float[1] least = {0.3},
 int64[2] box_columns = {0, 2}, int64 class_column = {1}, int64[1] five = {5}>
{
    centre, size = Split <axis = 2> (boxes, halves)
    positive = Softplus (size)
    extent = Mul (positive, half)
    low = Sub (centre, extent)
    high = Add (centre, extent)
    corners = Concat <axis = 2> (low, high)
    scores = Sigmoid (logits)
    selected = NonMaxSuppression (corners, scores, limit, iou, least)
    box_index = Gather <axis = 1> (selected, box_columns)
    kept = GatherND (corners, box_index)
    classes = Gather <axis = 1> (selected, class_column)
    confidence = GatherND (scores, selected)
    found = Shape (confidence)
    k = Min (found, five)
    best, places = TopK <axis = 0> (confidence, k)
}
"""


def from_text(text: str) -> bytes:
    """A model in ONNX's text form, checked, as file bytes."""
    import onnx

    model = onnx.parser.parse_model(text)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()

"""Reader and writer of TFLite records: round trips, alignment, the outside form, and files that lie."""

import io
import random

import numpy as np
import pytest
from anyir.formats import tflite
from anyir.formats.tflite import Record
from anyir.formats.tflite_versions import OpFacts, TensorFacts, version_of
from anyir.ir.errors import AnyIRError, InvalidModel, LimitExceeded
from anyir.ir.storage import limits


class Bytes:
    """A payload in two blocks."""

    def __init__(self, array):
        self.data = np.ascontiguousarray(array).tobytes()
        self.nbytes = len(self.data)

    def write(self, file):
        half = self.nbytes // 2
        file.write(self.data[:half])
        file.write(memoryview(self.data)[half:])


def fc_model(buffers=3):
    """x[-1, 4] -> FULLY_CONNECTED -> y[-1, 3], written by hand."""

    def tensor(name, shape, buffer, signature=None):
        return Record("Tensor", shape=shape, buffer=buffer, name=name, has_rank=True, shape_signature=signature)

    graph = Record(
        "SubGraph",
        tensors=[
            tensor("x", [1, 4], 0, [-1, 4]),
            tensor("w", [3, 4], 1),
            tensor("b", [3], 2),
            tensor("y", [1, 3], 0, [-1, 3]),
        ],
        inputs=[0],
        outputs=[3],
        operators=[
            Record(
                "Operator",
                opcode_index=0,
                inputs=[0, 1, 2],
                outputs=[3],
                builtin_options=Record("FullyConnectedOptions"),
            )
        ],
    )
    signature = Record(
        "SignatureDef",
        inputs=[Record("TensorMap", name="x", tensor_index=0)],
        outputs=[Record("TensorMap", name="y", tensor_index=3)],
        signature_key="serving_default",
    )
    return Record(
        "Model",
        version=3,
        operator_codes=[Record("OperatorCode", builtin_code=9, deprecated_builtin_code=9, version=1)],
        subgraphs=[graph],
        buffers=[Record("Buffer") for _ in range(buffers)],
        signature_defs=[signature],
    )


def written(outside):
    rng = np.random.default_rng(0)
    w, b = rng.normal(size=(3, 4)).astype("f4"), rng.normal(size=3).astype("f4")
    file = io.BytesIO()
    tflite.write(fc_model(), [None, Bytes(w), Bytes(b)], file, outside=outside)
    return w, b, file.getvalue()


@pytest.mark.parametrize("outside", [False, True])
def test_round_trip(outside):
    w, b, data = written(outside)
    model = tflite.parse(data)
    graph = model["subgraphs"][0]
    assert [t["name"] for t in graph["tensors"]] == ["x", "w", "b", "y"]
    assert graph["tensors"][0]["shape_signature"].tolist() == [-1, 4]
    assert graph["operators"][0]["builtin_options"].table == "FullyConnectedOptions"
    assert graph["operators"][0]["debug_metadata_index"] == -1
    contents = [bytes(tflite.buffer_bytes(memoryview(data), buffer)) for buffer in model["buffers"]]
    assert contents == [b"", w.tobytes(), b.tobytes()]


def test_contents_are_aligned_and_the_bytes_repeatable():
    for outside, alignment in ((False, 16), (True, 64)):
        w, _, data = written(outside)
        assert data.index(w.tobytes()) % alignment == 0
        assert data == written(outside)[2]


def test_equal_tables_are_stored_once_unless_they_have_an_index():
    def size(*weights_formats):
        model = fc_model()
        operator = model["subgraphs"][0]["operators"][0]
        options = [Record("FullyConnectedOptions", weights_format=number) for number in weights_formats]
        model["subgraphs"][0]["operators"] = [Record("Operator", operator, builtin_options=made) for made in options]
        data = tflite.build(model)
        read = tflite.parse(data)["subgraphs"][0]["operators"]
        assert [op["builtin_options"]["weights_format"] for op in read] == list(weights_formats)
        return len(data)

    rows = size(1, 1), size(1, 1, 1), size(1, 2), size(1, 2, 3)
    assert rows[1] - rows[0] < rows[3] - rows[2]
    assert len(tflite.parse(tflite.build(fc_model(buffers=9)))["buffers"]) == 9


@pytest.mark.parametrize("outside", [False, True])
def test_litert_runs_it(outside, tmp_path):
    pytest.importorskip("ai_edge_litert")
    from anyir.runtimes import litert

    w, b, data = written(outside)
    (tmp_path / "m.tflite").write_bytes(data)
    for batch in (1, 5):
        x = np.random.default_rng(batch).normal(size=(batch, 4)).astype("f4")
        got = litert.run(tmp_path / "m.tflite", {"x": x})
        np.testing.assert_allclose(got["y"], x @ w.T + b, rtol=1e-5, atol=1e-6)


def test_not_a_tflite_file():
    for data in (b"", b"TFL3", b"\x08\0\0\0ONNX" + bytes(64), bytes(100)):
        with pytest.raises(InvalidModel):
            tflite.parse(data)


def walk(data):
    model = tflite.parse(data)
    for buffer in model["buffers"] or ():
        tflite.buffer_bytes(memoryview(data), buffer)


def test_truncated_and_flipped_files_raise_only_our_errors():
    _, _, data = written(False)
    rng = random.Random(0)
    damaged = [data[:cut] for cut in range(8, len(data), 7)]
    for _ in range(1500):
        bad = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            bad[rng.randrange(8, len(bad))] = rng.randrange(256)
        damaged.append(bytes(bad))
    for bad in damaged:
        try:
            walk(bad)
        except AnyIRError:
            continue


def test_repeated_subtables_do_not_blow_up():
    """A small file may point at one table again and again; what is made of it is bounded."""
    shared = [Record("Metadata", name="m")] * 2000
    data = bytes(tflite.build(Record("Model", version=3, metadata=shared)))
    with limits(items=1000), pytest.raises(LimitExceeded):
        tflite.parse(data)


VERSIONS = [
    ("CONV_2D", ["FLOAT32:1,8,8,4", "FLOAT32:8,3,3,4"], {}, 1),
    ("CONV_2D", ["FLOAT32:1,8,8,4", "FLOAT32:8,3,3,2"], {}, 6),
    ("CONV_2D", ["FLOAT32:1,8,8,4", "INT8:8,3,3,4:8"], {}, 5),
    ("DEPTHWISE_CONV_2D", ["FLOAT32:1,8,8,4", "FLOAT32:1,3,3,4"], {"dilation_w_factor": 2, "dilation_h_factor": 2}, 2),
    ("FULLY_CONNECTED", ["FLOAT32:1,4", "FLOAT32:3,4", "FLOAT32:3"], {}, 1),
    ("FULLY_CONNECTED", ["FLOAT32:1,4", "FLOAT32:3,4"], {}, 6),
    ("FULLY_CONNECTED", ["FLOAT32:1,2,4", "FLOAT32:3,4", "FLOAT32:3"], {"keep_num_dims": True}, 5),
    ("BROADCAST_TO", ["FLOAT32:1,4", "INT32:2"], {}, 2),
    ("TRANSPOSE", ["FLOAT32:1,1,1,1,1", "INT32:5"], {}, 4),
    ("RESIZE_BILINEAR", ["FLOAT32:1,4,4,1", "INT32:2"], {"half_pixel_centers": True}, 3),
    ("SPLIT", ["INT32:", "FLOAT32:4"], {}, 1),
    ("ADD", ["INT64:3", "INT64:3"], {}, 4),
    ("CAST", ["BOOL:2"], {}, 1),
    ("RELU", ["INT8:2:1"], {}, 2),
]


@pytest.mark.parametrize(("op", "inputs", "options", "version"), VERSIONS)
def test_versions(op, inputs, options, version):
    def facts(text):
        kind, shape, *scales = text.split(":")
        return TensorFacts(kind, tuple(int(d) for d in shape.split(",") if d), int(scales[0]) if scales else 0)

    tensors = tuple(facts(text) for text in inputs)
    assert version_of(op, OpFacts(tensors, tensors[:1], options)) == version

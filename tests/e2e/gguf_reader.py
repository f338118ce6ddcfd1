"""A GGUF file as its format says, read apart from the code that writes one. Source: llama.cpp, ggml/include/gguf.h."""

import struct

import numpy as np

ARRAY, TEXT = 9, 8
SCALARS = {4: "I", 5: "i", 6: "f", 7: "?"}
DTYPES = {0: np.float32, 30: np.uint16}  # f32, and the bits of bf16
ALIGNMENT = 32


def read(path):
    """({key: value}, {name: array}); bf16 as uint16."""
    with open(path, "rb") as file:
        data = file.read()
    at = 0

    def take(form):
        nonlocal at
        values = struct.unpack_from("<" + form, data, at)
        at += struct.calcsize("<" + form)
        return values if len(values) > 1 else values[0]

    def text():
        return take(f"{take('Q')}s").decode()

    def value(kind):
        if kind == ARRAY:
            element, count = take("IQ")
            return [value(element) for _ in range(count)]
        return text() if kind == TEXT else take(SCALARS[kind])

    magic, version, num_tensors, num_keys = take("4sIQQ")
    assert (magic, version) == (b"GGUF", 3)
    keys = {}
    for _ in range(num_keys):
        name = text()
        keys[name] = value(take("I"))
    entries = {}
    for _ in range(num_tensors):
        name, count = text(), take("I")
        sizes = [take("Q") for _ in range(count)]
        entries[name] = (sizes[::-1], *take("IQ"))
    begin = -(-at // ALIGNMENT) * ALIGNMENT
    tensors = {}
    for name, (shape, kind, offset) in entries.items():
        assert offset % ALIGNMENT == 0
        tensors[name] = np.frombuffer(data, DTYPES[kind], int(np.prod(shape)), begin + offset).reshape(shape)
    return keys, tensors

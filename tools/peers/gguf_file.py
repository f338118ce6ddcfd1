"""GGUF, the format of llama.cpp's models (version 3, little-endian): a writer that streams, and the head of a file.

    "GGUF", u32 version, u64 tensors, u64 keys; the keys with their values; for each tensor name, u32 number of sizes, u64
    sizes (the fastest first), u32 type, u64 offset into the data; then the data, each tensor at a multiple of 32 bytes.
Source: llama.cpp, ggml/include/gguf.h.
"""

import dataclasses
import os
import struct

ALIGNMENT = 32
VERSION = 3

U32, I32, F32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9  # types of values
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", U32: "<I", I32: "<i", F32: "<f", BOOL: "<?", 10: "<Q", 11: "<q", 12: "<d"}

# Types of tensors: (values in a block, bytes of a block). Source: ggml.h `ggml_type`, ggml-common.h.
TENSOR_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 8, "q6_k": 14, "bf16": 30}
_BLOCKS = {0: (1, 4), 1: (1, 2), 2: (32, 18), 8: (32, 34), 14: (256, 210), 30: (1, 2)}


@dataclasses.dataclass
class Tensor:
    name: str
    shape: tuple  # as numpy has it: the fastest size last
    type: str  # of TENSOR_TYPES
    parts: object = None  # for writing: a function that yields C-contiguous arrays, which one after another are the data

    @property
    def num_bytes(self):
        block, size = _BLOCKS[TENSOR_TYPES[self.type]]
        count = 1
        for n in self.shape:
            count *= n
        return count // block * size


def _string(text):
    data = text.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(data)) + data


def _value(kind, value):
    return _string(value) if kind == STRING else struct.pack(_SCALARS[kind], value)


def _key(name, kind, value):
    """`kind` of a list: of its elements."""
    if not isinstance(value, list):
        return _string(name) + struct.pack("<I", kind) + _value(kind, value)
    head = struct.pack("<IIQ", ARRAY, kind, len(value))
    return _string(name) + head + b"".join(_value(kind, one) for one in value)


def _padding(size):
    return -size % ALIGNMENT


def write(path, keys, tensors):
    """keys: [(name, type, value or list of values)]. One part of a tensor is in memory; the file appears when it is whole."""
    head = [b"GGUF", struct.pack("<IQQ", VERSION, len(tensors), len(keys))]
    head += [_key(*key) for key in keys]
    offset = 0
    for tensor in tensors:
        sizes = tensor.shape[::-1]
        head.append(_string(tensor.name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes,
                                                       TENSOR_TYPES[tensor.type], offset))
        offset += tensor.num_bytes + _padding(tensor.num_bytes)
    head = b"".join(head)
    partial = path + ".partial"
    with open(partial, "wb") as file:
        file.write(head + bytes(_padding(len(head))))
        for tensor in tensors:
            written = 0
            for part in tensor.parts():
                written += file.write(memoryview(part).cast("B"))
            if written != tensor.num_bytes:
                raise ValueError(f"{tensor.name}: expected {tensor.num_bytes} bytes, found {written}")
            file.write(bytes(_padding(written)))
    os.rename(partial, path)


class _Reader:
    def __init__(self, file):
        self.file = file

    def unpack(self, form):
        return struct.unpack(form, self.file.read(struct.calcsize(form)))

    def string(self):
        return self.file.read(self.unpack("<Q")[0]).decode("utf-8", "surrogatepass")

    def value(self, kind):
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            element, count = self.unpack("<IQ")
            return [self.value(element) for _ in range(count)]
        return self.unpack(_SCALARS[kind])[0]


def read_head(path):
    """({key: value}, [Tensor]) of a file."""
    names = {number: name for name, number in TENSOR_TYPES.items()}
    with open(path, "rb") as file:
        reader = _Reader(file)
        if file.read(4) != b"GGUF":
            raise ValueError(f"{path}: no GGUF file")
        version, num_tensors, num_keys = reader.unpack("<IQQ")
        if version != VERSION:
            raise ValueError(f"{path}: GGUF version {version}, expected {VERSION}")
        keys = {}
        for _ in range(num_keys):
            name = reader.string()
            keys[name] = reader.value(reader.unpack("<I")[0])
        tensors = []
        for _ in range(num_tensors):
            name = reader.string()
            sizes = reader.unpack(f"<{reader.unpack('<I')[0]}Q")
            kind, _ = reader.unpack("<IQ")
            if kind not in names:
                raise ValueError(f"{path}: {name} has tensor type {kind}, which is not known here")
            tensors.append(Tensor(name, sizes[::-1], names[kind]))
    return keys, tensors


def active_bytes(path):
    """Of weights that a token reads: all but the embedding's table, of the experts the chosen ones."""
    keys, tensors = read_head(path)
    prefix = keys["general.architecture"]
    share = keys[f"{prefix}.expert_used_count"] / keys[f"{prefix}.expert_count"]
    return sum(tensor.num_bytes * (share if "_exps." in tensor.name else 1) for tensor in tensors
               if tensor.name != "token_embd.weight")

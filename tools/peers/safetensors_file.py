"""A checkpoint's safetensors files, mapped: tensors as numpy arrays without copies."""

import json
import os

import numpy as np

_DTYPES = {"F32": np.float32, "BF16": np.uint16, "F8_E4M3": np.uint8}  # numpy has neither bf16 nor FP8: their bits


def _fp8_values():
    """The float32 value of each of the 256 bytes of E4M3 (no infinities; all ones is not a number)."""
    byte = np.arange(256)
    exponent, mantissa = (byte >> 3) & 15, byte & 7
    value = np.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0**(exponent - 10.0))
    value[(byte & 127) == 127] = np.nan
    return np.where(byte & 128, -value, value).astype(np.float32)


_FP8 = _fp8_values()


class Checkpoint:
    """config, and tensors by name. Attribute `exact_type`: what holds every weight exactly, "bf16" or "f32"."""

    def __init__(self, folder):
        self.folder = folder
        self.config = self.json("config.json")
        self._tensors = {}
        for name in sorted(os.listdir(folder)):
            if name.endswith(".safetensors"):
                self._map(os.path.join(folder, name))
        dtypes = {array.dtype for name, array in self._tensors.items() if array.ndim > 1}
        self.exact_type = "bf16" if dtypes == {np.dtype(np.uint16)} else "f32"

    def json(self, name):
        with open(os.path.join(self.folder, name), encoding="utf-8") as file:
            return json.load(file)

    def _map(self, path):
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            head = json.loads(file.read(size))
        data = np.memmap(path, np.uint8, "r", 8 + size)
        for name, entry in head.items():
            if name == "__metadata__":
                continue
            if entry["dtype"] not in _DTYPES:
                raise ValueError(f"{path}: {name} is {entry['dtype']}; expected one of {', '.join(_DTYPES)}")
            begin, end = entry["data_offsets"]
            self._tensors[name] = data[begin:end].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])

    def __contains__(self, name):
        return name in self._tensors

    def shape(self, name):
        return self._tensors[name].shape

    def float32(self, name):
        """Its values, exactly."""
        array = self._tensors[name]
        if array.dtype == np.float32:
            return array
        if array.dtype == np.uint16:
            return (array.astype(np.uint32) << 16).view(np.float32)
        scale = self._tensors[name + "_scale_inv"]
        block = self.config["quantization_config"]["weight_block_size"][0]
        rows, columns = array.shape
        return _FP8[array] * np.repeat(np.repeat(scale, block, 0), block, 1)[:rows, :columns]

    def exact(self, name):
        """Its values as `exact_type`; the bits of bf16 as uint16."""
        return self._tensors[name] if self.exact_type == "bf16" else self.float32(name)

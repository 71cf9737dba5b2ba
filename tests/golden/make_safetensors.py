"""Writes tests/golden/safetensors.hpp: a file with every element type, as the Python package safetensors 0.5.3 writes it (numpy 2.4.6).

python3 tests/golden/make_safetensors.py > tests/golden/safetensors.hpp
"""
import numpy as np
from safetensors import serialize

from bytes_header import print_header

arrays = {
    "f64": np.array([[1.5, -2.25], [0.1, 1e300]]), "f32": np.array([0.1, -3.0, 3e38], np.float32), "f16": np.array([[1.0], [-0.5]], np.float16),
    "i64": np.array([-(2**62), 7]), "i32": np.array([[[-5]]], np.int32), "u8": np.array([0, 255, 3], np.uint8), "flag": np.array([True, False, True]),
    "scalar": np.array(2.5), "empty": np.zeros((0, 4), np.float32), "bf16": np.array([0x3FC0, 0xC040], np.uint16)}
specs = {name: {"dtype": "bfloat16" if name == "bf16" else array.dtype.name, "shape": list(array.shape), "data": array.tobytes()}
         for name, array in arrays.items()}
data = bytes(serialize(specs, {"format": "np", "note": "größer"}))
print_header("safetensors", "safetensors_file", "A file written by the Python package safetensors 0.5.3", "make_safetensors.py", data)

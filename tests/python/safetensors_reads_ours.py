# SPDX-License-Identifier: Apache-2.0
"""Files of the Python package safetensors and ours, both ways: every element type, empty and scalar shapes, metadata, bit by bit.   usage: … FOLDER COPY"""
import ctypes, struct, subprocess, sys
from support import begin

work, copy = begin("safetensors"), sys.argv[2]
import safetensors

codes = {"F64": ("float64", "d"), "F32": ("float32", "f"), "F16": ("float16", "e"), "I64": ("int64", "q"), "I32": ("int32", "i"), "I16": ("int16", "h"),
         "I8": ("int8", "b"), "U8": ("uint8", "B"), "BOOL": ("bool", "?")}
numbers = {"F64": [1 / 3, -2.0, 5e-324], "F32": [1.5, -3.4028234663852886e38], "F16": [0.25, -65504.0], "BF16": [1.0078125, -2.0 ** 100], "I64": [-2 ** 53, 7],
           "I32": [-2 ** 31, 2 ** 31 - 1], "I16": [-2 ** 15, 300], "I8": [-128, 127], "U8": [255, 0], "BOOL": [True, False]}

def entry(type, values, shape):
    if type == "BF16":
        return {"dtype": "bfloat16", "shape": shape, "data": b"".join(struct.pack("<f", value)[2:] for value in values)}
    name, code = codes[type]
    return {"dtype": name, "shape": shape, "data": struct.pack(f"<{len(values)}{code}", *values)}

given, values = {}, {}
for type, of_type in numbers.items():
    for name, shape, held in ((f"{type}.list", [1, len(of_type)], of_type), (f"{type}.scalar", [], of_type[:1]), (f"{type}.empty", [0, 3], [])):
        given[name], values[name] = entry(type, held, shape), held
metadata = {"format": "pt", "text": "Zürich \"1\"\n"}
buffers = {name: ctypes.create_string_buffer(held["data"], len(held["data"])) for name, held in given.items()}
specs = {name: safetensors.TensorSpec(dtype=held["dtype"], shape=held["shape"], data_ptr=ctypes.addressof(buffers[name]), data_len=len(held["data"]))
         for name, held in given.items()}
safetensors.serialize_file(specs, str(work / "theirs.safetensors"), metadata)

printed = subprocess.run([copy, work / "theirs.safetensors", work / "ours.safetensors"], check=True, capture_output=True, encoding="utf-8").stdout
read = {line.split(" ")[0]: line for line in printed.splitlines()}
assert read.keys() == values.keys(), printed
for name, line in read.items():
    shape, *found = line[len(name) + 2:].replace("] ", "]").split("]")
    assert [int(size) for size in shape.replace(",", " ").split()] == given[name]["shape"], line
    assert [float(number) for number in found[0].split()] == values[name], line

def by_name(path):
    return {name: {"dtype": held["dtype"], "shape": held["shape"], "data": bytes(held["data"])} for name, held in safetensors.deserialize(path.read_bytes())}

ours = by_name(work / "ours.safetensors")
expected = {name: given[name] | {"dtype": name.split(".")[0]} for name in given}
assert ours == by_name(work / "theirs.safetensors") == expected, (ours, expected)
with safetensors.safe_open(str(work / "ours.safetensors"), "np") as file:
    texts = file.metadata()
assert len(texts.pop("htl.crc32")) == 8 and texts == metadata, texts
print(f"{len(ours)} tensors and {len(metadata)} texts are the same both ways")

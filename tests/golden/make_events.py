"""Writes tests/golden/events.hpp: an event file as the Python package tensorboard 2.21.0 writes it (protobuf 7.36.2).

python3 tests/golden/make_events.py > tests/golden/events.hpp
"""
import io

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter

from bytes_header import print_header

steps = [(0, 1700000000.25, {"loss/click": 0.5, "loss/größe": 0.0}),
         (300, 1700000001.5, {"valid/click/auc": 0.1, "rate": -1e-30, "undefined": float("nan"), "a" * 200: float("inf")}),
         (2**40 + 5, 1700000002.0, {"x": 3e38})]
file = io.BytesIO()
writer = RecordWriter(file)
writer.write(Event(wall_time=steps[0][1], file_version="brain.Event:2").SerializeToString())
for step, wall_time, scalars in steps:
    event = Event(wall_time=wall_time, step=step)
    for tag, value in scalars.items():
        event.summary.value.add(tag=tag, simple_value=value)
    writer.write(event.SerializeToString())
data = file.getvalue()
print_header("events", "event_file", "An event file written by the Python package tensorboard 2.21.0", "make_events.py", data)

"""Writes the Parquet files of this folder with pyarrow, whose files are what people have. Usage: make.py FOLDER"""

import datetime
import decimal
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

out = Path(sys.argv[1])
moment = datetime.datetime(2024, 2, 29, 12, 30, 15, 250_000)
rows = 300


def column(kind, value):
    """`value` of each row, missing in every seventh."""
    return pa.array([None if i % 7 == 3 else value(i) for i in range(rows)], kind)


columns = {
    "boolean": column(pa.bool_(), lambda i: i % 3 == 0),
    "int8": column(pa.int8(), lambda i: i % 100 - 50),
    "int16": column(pa.int16(), lambda i: i * 100 - 15_000),
    "int32": column(pa.int32(), lambda i: i * 1_000_000 - 7),
    "int64": column(pa.int64(), lambda i: i * 10_000_000_000 - 7),
    "uint8": column(pa.uint8(), lambda i: i % 256),
    "uint32": column(pa.uint32(), lambda i: 4_294_967_295 - i),
    "uint64": column(pa.uint64(), lambda i: 2**63 + i * 2**40),
    "half": pa.array([None if i % 7 == 3 else i / 8 for i in range(rows)], pa.float32()).cast(pa.float16()),
    "float": column(pa.float32(), lambda i: i / 4),
    "double": column(pa.float64(), lambda i: i / 3),
    "decimal_9": column(pa.decimal128(9, 2), lambda i: decimal.Decimal(i - 150) / 4),
    "decimal_30": column(pa.decimal128(30, 4), lambda i: decimal.Decimal(i - 150) / 16),
    "date": column(pa.date32(), lambda i: datetime.date(1970, 1, 1) + datetime.timedelta(days=i - 10)),
    "time": column(pa.time64("us"), lambda i: datetime.time(1, 2, 3, i)),
    "milliseconds": column(pa.timestamp("ms"), lambda i: moment + datetime.timedelta(seconds=i)),
    "microseconds": column(pa.timestamp("us"), lambda i: moment + datetime.timedelta(seconds=i)),
    "nanoseconds": column(pa.timestamp("ns"), lambda i: moment + datetime.timedelta(seconds=i)),
    "text": column(pa.string(), lambda i: f"word {i % 5}"),
    "long_text": column(pa.large_string(), lambda i: f"{'long ' * 10}{i:03}"),
    "category": column(pa.string(), lambda i: "abc"[i % 3]).dictionary_encode(),
    "target": pa.array([i % 2 for i in range(rows)], pa.int64()),
}
table = pa.table(columns)

delta = {
    name: "DELTA_BYTE_ARRAY" if name in ("text", "long_text", "category") else "DELTA_BINARY_PACKED"
    for name in ("int32", "int64", "text", "long_text", "category")
}
split = {"float": "BYTE_STREAM_SPLIT", "double": "BYTE_STREAM_SPLIT", "text": "DELTA_LENGTH_BYTE_ARRAY"}
small = {"data_page_size": 256, "row_group_size": 128, "write_batch_size": 16}
pq.write_table(table, out / "snappy.parquet", compression="snappy", **small)
pq.write_table(table, out / "zstd.parquet", compression="zstd", version="1.0", use_dictionary=False)
pq.write_table(table, out / "gzip_v2.parquet", compression="gzip", data_page_version="2.0", **small)
pq.write_table(
    table, out / "delta.parquet", compression="none", use_dictionary=False, column_encoding=delta, **small
)
pq.write_table(
    table,
    out / "split_v2.parquet",
    compression="zstd",
    use_dictionary=False,
    column_encoding=split,
    data_page_version="2.0",
)
pq.write_table(
    table.select(["nanoseconds", "target"]), out / "int96.parquet", use_deprecated_int96_timestamps=True
)

few = {"x": [1, 2, 3, 4], "y": ["a", "b", "a", "b"]}
pq.write_table(pa.table({"v": [[1], [2], [], [3]]} | few), out / "list.parquet")
pq.write_table(pa.table({"place": [{"lat": 1.0}] * 4} | few), out / "struct.parquet")
pq.write_table(pa.table(few), out / "brotli.parquet", compression="brotli")
pq.write_table(pa.table({"b": [b"\xff\xfe"] * 4} | few), out / "bytes.parquet")
pq.write_table(pa.table({"f": pa.array([b"123"] * 4, pa.binary(3))} | few), out / "fixed.parquet")
pq.write_table(pa.table(few | {"__index_level_0__": [7, 5, 3, 1]}), out / "index.parquet")
pq.write_table(pa.table(few).slice(0, 0), out / "no_rows.parquet")

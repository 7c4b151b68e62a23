"""The GGUF reader: what it says about models, and that no file does worse than a refusal."""

import contextlib
import os
import struct
import time

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model_runner.errors import UnsupportedModel
from model_runner.formats.beginnings import HeaderGoesOn
from model_runner.formats.gguf import describe, parse_header, read_header
from model_runner.formats.gguf_header import Array
from support.tiny_gguf import tiny_random, tiny_script


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def key_value(key: str, kind: int, payload: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + payload


def tensor(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + dimensions + struct.pack("<IQ", kind, offset)


def file_of(values: list[bytes], tensors: list[bytes] = [], *, data: int = 0) -> bytes:  # noqa: B006
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values))
    header += b"".join(values) + b"".join(tensors)
    return header + bytes(32 - len(header) % 32) + bytes(data)


def written(tmp_path, content: bytes):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    return path


def test_the_example_file_of_ggml_is_described_as_by_dockers_parser(tmp_path):
    path = tmp_path / "dummy.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint8("some.parameter.uint8", 0x12)
    writer.add_int8("some.parameter.int8", -0x13)
    writer.add_uint16("some.parameter.uint16", 0x1234)
    writer.add_int16("some.parameter.int16", -0x1235)
    writer.add_uint32("some.parameter.uint32", 0x12345678)
    writer.add_int32("some.parameter.int32", -0x12345679)
    writer.add_float32("some.parameter.float32", 0.123456789)
    writer.add_uint64("some.parameter.uint64", 0x123456789ABCDEF0)
    writer.add_int64("some.parameter.int64", -0x123456789ABCDEF1)
    writer.add_float64("some.parameter.float64", 0.1234567890123456789)
    writer.add_bool("some.parameter.bool", True)
    writer.add_string("some.parameter.string", "hello world")
    writer.add_array("some.parameter.arr.i16", [1, 2, 3, 4])
    writer.add_array("some.parameter.arr.f32", [3.145, 2.718, 1.414])
    writer.add_array("some.parameter.arr.str", ["hello", "world", "!"])
    # 183 parameters, and 864 bytes of data as they are padded to 32 each.
    for number, size in enumerate([33, 33, 33, 33, 51]):
        writer.add_tensor(f"tensor_{number}", np.zeros(size, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    metadata = describe([path])
    assert metadata.parameters == "183"
    assert metadata.size == "864B"
    assert metadata.architecture == "llama"
    assert metadata.quantization == "Unknown"
    assert metadata.context_size is None
    assert metadata.gguf == {
        "general.architecture": "llama",
        "some.parameter.arr.f32": "3.145000, 2.718000, 1.414000",
        "some.parameter.arr.i16": "1, 2, 3, 4",
        "some.parameter.arr.str": "hello, world, !",
        "some.parameter.bool": "true",
        "some.parameter.float32": "0.123457",
        "some.parameter.float64": "0.123457",
        "some.parameter.int16": "-4661",
        "some.parameter.int32": "-305419897",
        "some.parameter.int64": "-1311768467463790321",
        "some.parameter.int8": "-19",
        "some.parameter.string": "hello world",
        "some.parameter.uint16": "4660",
        "some.parameter.uint32": "305419896",
        "some.parameter.uint64": "1311768467463790320",
        "some.parameter.uint8": "18",
    }


@pytest.mark.parametrize(
    ("parameters", "shown"),
    [
        (0, "0"),
        (183, "183"),
        (999, "999"),
        (1000, "1K"),
        (361_820_032, "361.82M"),
        (7 * 10**9, "7B"),
        (1_500_000_000_000, "1.50T"),
        (2 * 10**15, "2Q"),
    ],
)
def test_parameters_are_told_in_decimal_units(tmp_path, parameters, shown):
    path = written(tmp_path, file_of([], [tensor("blk.0", (parameters,))]))
    assert describe([path]).parameters == shown


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0B"),
        (864, "864B"),
        (1000, "1KB"),
        (1024, "1KiB"),
        (1_000_000, "1MB"),
        (268_800_000, "256.35MiB"),
        (1_050_000_000, "1.05GB"),
        (1 << 30, "1GiB"),
    ],
)
def test_sizes_are_told_in_the_largest_unit_of_either_family(tmp_path, size, shown):
    path = written(tmp_path, file_of([]))
    os.truncate(path, path.stat().st_size + size)  # sparse
    assert describe([path]).size == shown


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "MOSTLY_F32"),
        (1, "MOSTLY_F16"),
        (7, "MOSTLY_Q8_0"),
        (15, "MOSTLY_Q4_K_M"),
        (32, "MOSTLY_BF16"),
        (38, "MOSTLY_MXFP4"),
        (39, "Unknown"),
        (1024, "GGUFFileType(1024)"),
    ],
)
def test_the_file_type_is_named(tmp_path, number, shown):
    value = key_value("general.file_type", 4, struct.pack("<I", number))
    assert describe([written(tmp_path, file_of([value]))]).quantization == shown


@pytest.mark.parametrize(
    ("kinds", "shown"),
    [
        ([], "Unknown"),
        ([0, 0], "MOSTLY_F32"),
        ([0, 0, 0, 8, 8], "MOSTLY_Q8_0"),
        ([12, 12, 14, 0], "MOSTLY_Q4_K_M"),
        ([12, 12, 0], "MOSTLY_Q4_K_S"),
        ([11, 11, 13], "MOSTLY_Q3_K_L"),
        ([250], "Unknown"),
    ],
)
def test_without_a_file_type_most_tensors_decide(tmp_path, kinds, shown):
    tensors = [tensor(f"blk.{n}.weight", (256,), kind) for n, kind in enumerate(kinds)]
    tensors.append(tensor("token_embd.weight", (256,), 30))
    assert describe([written(tmp_path, file_of([], tensors))]).quantization == shown


@pytest.mark.parametrize(
    ("values", "tensors", "shown"),
    [
        ([key_value("general.architecture", 8, text("qwen3"))], [], "qwen3"),
        ([], [], "llama"),
        ([key_value("general.architecture", 8, text("flux"))], [], "llama"),
        ([], [tensor("model.diffusion_model.x", (1,))], "diffusion"),
        ([], [tensor("double_blocks.0.x", (1,))], "diffusion"),
        ([key_value("general.type", 8, text("imatrix"))], [], "imatrix"),
        ([key_value("controlvector.model_hint", 8, text("gemma"))], [], "gemma"),
    ],
)
def test_the_architecture_is_named_or_guessed(tmp_path, values, tensors, shown):
    assert describe([written(tmp_path, file_of(values, tensors))]).architecture == shown


def test_shards_are_described_as_one_model(tmp_path):
    tiny_random(tmp_path / "m.gguf", shards=3)
    whole = describe([tiny_random(tmp_path / "whole.gguf")])
    together = describe(sorted(tmp_path.glob("m-*.gguf")))
    assert together.parameters == whole.parameters
    assert together.context_size == 4096
    assert "split.no" not in together.gguf
    assert together.gguf["split.count"] == "3"


def test_arrays_of_more_than_fifty_elements_are_left_out(tmp_path):
    def array(length):
        payload = struct.pack("<IQ", 4, length) + bytes(4 * length)
        return key_value(f"array.{length}", 9, payload)

    path = written(tmp_path, file_of([array(50), array(51), array(0)]))
    assert describe([path]).gguf == {"array.0": "", "array.50": ", ".join(["0"] * 50)}
    assert read_header(path).metadata["array.51"] == Array(51, None)


def test_bytes_that_are_no_text_become_replacement_characters_one_each(tmp_path):
    path = written(tmp_path, file_of([key_value("a", 8, text(b"x\xe2\x82y"))]))
    assert describe([path]).gguf == {"a": "x\ufffd\ufffdy"}


def test_big_endian_files_are_read(tmp_path):
    header = b"GGUF" + struct.pack(">IQQ", 3, 0, 1)
    header += struct.pack(">Q", 1) + b"a" + struct.pack(">II", 4, 7)
    assert read_header(written(tmp_path, header)).metadata == {"a": 7}


def test_a_vocabulary_of_256k_tokens_takes_no_noticeable_time(tmp_path):
    tokens = b"".join(text(f"token{number}") for number in range(262_144))
    vocabulary = key_value("t", 9, struct.pack("<IQ", 8, 262_144) + tokens)
    path = written(tmp_path, file_of([vocabulary]))
    begin = time.process_time()
    assert read_header(path).metadata["t"] == Array(262_144, None)
    # 0.03 s measured; building the strings takes several times that, the gguf package 100 times.
    assert time.process_time() - begin < 0.5


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"GGU", "not a GGUF file"),
        (b"PK\3\4" + bytes(100), "not a GGUF file"),
        (b"GGUF", "truncated"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (b"GGUF" + struct.pack("<IQQ", 4, 0, 0), "upgrade"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**63, 0), "claims 9223372036854775808 tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 200_001, 0), "claims 200001 tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**63), "claims 9223372036854775808 keys"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 10_001), "claims 10001 keys"),
        (file_of([key_value("a", 99, b"")]), "unknown type 99"),
        (file_of([struct.pack("<Q", 2**63)]), "truncated"),
        (file_of([key_value("a", 9, struct.pack("<IQ", 8, 2**62))]), "truncated"),
        (file_of([key_value("a", 9, struct.pack("<IQ", 12, 2**62))]), "truncated"),
        (file_of([key_value("a", 9, struct.pack("<IQQ", 8, 100, 2**64 - 1))]), "truncated"),
        (file_of([key_value("a", 9, struct.pack("<IQ", 9, 1) * 100)]), "arrays in arrays"),
        (file_of([], [tensor("a", (1,) * 9)]), "9 dimensions"),
        (file_of([], [tensor("a", (2**63,) * 8, kind=99)]), "no disk could hold"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_the_reason(tmp_path, content, reason):
    with pytest.raises(UnsupportedModel, match=reason) as caught:
        read_header(written(tmp_path, content))
    assert caught.value.status == 422


def nested(depth: int) -> bytes:
    """An array of 50 arrays of 50 arrays … of 50 bytes, without its type."""
    if depth == 0:
        return struct.pack("<IQ", 1, 50) + b"\x80" * 50
    return struct.pack("<IQ", 9, 50) + nested(depth - 1) * 50


@pytest.mark.parametrize(
    "values",
    [
        [key_value(f"text{number}", 8, text(b"x" * (15 << 20))) for number in range(5)],
        [key_value(f"array{number}", 9, nested(2)) for number in range(9)],
    ],
    ids=["long texts", "many values"],
)
def test_metadata_that_would_fill_the_memory_is_refused(tmp_path, values):
    with pytest.raises(UnsupportedModel, match="more than 67108864 bytes of metadata"):
        read_header(written(tmp_path, file_of(values)))


def test_names_of_tensors_count_as_metadata(tmp_path):
    tensors = [tensor("n" * 1000, (1,))] * 60_000
    with pytest.raises(UnsupportedModel, match="bytes of metadata"):
        read_header(written(tmp_path, file_of([], tensors)))


@pytest.mark.parametrize(("kind", "size"), [(0, 1), (8, 8), (9, 1)])
def test_a_header_that_would_take_minutes_to_walk_is_refused(tmp_path, kind, size):
    length = 300 << 20
    start = b"GGUF" + struct.pack("<IQQ", 3, 0, 1)
    start += key_value("a", 9, struct.pack("<IQ", kind, length // size))
    path = written(tmp_path, start)
    os.truncate(path, len(start) + length)  # sparse
    with pytest.raises(UnsupportedModel, match="a header of more than 268435456 bytes"):
        read_header(path)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UnsupportedModel, match="no such file"):
        read_header(tmp_path / "nowhere.gguf")
    with pytest.raises(UnsupportedModel, match="is a directory"):
        read_header(tmp_path)


def test_a_header_cut_anywhere_is_refused(tmp_path):
    whole = tiny_script(tmp_path / "whole.gguf")
    end = read_header(whole).end
    content = whole.read_bytes()
    for cut in [*range(1, 2000, 7), *range(2000, end, 997), end - 1]:
        with pytest.raises(UnsupportedModel):
            read_header(written(tmp_path, content[:cut]))


def test_the_beginning_of_a_file_will_do(tmp_path):
    """Whoever has too little of it is told how much more it takes; no other answer comes of it."""
    path = tiny_script(tmp_path / "tiny.gguf")
    whole, content = read_header(path), path.read_bytes()
    for cut in range(4, whole.end):
        with pytest.raises(HeaderGoesOn) as told:
            parse_header(content[:cut], path.name, len(content))
        assert cut < told.value.needed <= whole.end
    assert parse_header(content[: whole.end], path.name, len(content)) == whole


def test_missing_tensor_data_is_counted(tmp_path):
    whole = tiny_script(tmp_path / "whole.gguf")
    assert read_header(whole).missing == 0
    os.truncate(whole, whole.stat().st_size - 1234)
    assert read_header(whole).missing == 1234


def test_400_gigabytes_in_shards_are_described_at_once(tmp_path):
    size, count = 1 << 30, 40  # bytes of each of ten tensors in a file
    paths = []
    for number in range(count):
        tensors = [tensor(f"blk.{n}.weight", (size,), 24, n * size) for n in range(10)]
        values = [key_value("split.no", 2, struct.pack("<H", number))]
        path = tmp_path / f"big-{number + 1:05d}-of-{count:05d}.gguf"
        path.write_bytes(file_of(values, tensors))
        os.truncate(path, path.stat().st_size + 10 * size)  # sparse
        paths.append(path)
    begin = time.process_time()
    metadata = describe(paths)
    # 0.01 s measured; reading the files would take minutes.
    assert time.process_time() - begin < 0.3
    assert metadata.size == "400GiB"
    assert metadata.parameters == "429.50B"
    assert not any(read_header(path).missing for path in paths)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(position=st.integers(4, 30_000), value=st.integers(0, 255))
def test_a_damaged_byte_never_does_worse_than_a_refusal(tmp_path, position, value):
    template = tmp_path / "template.gguf"
    if not template.exists():
        tiny_script(template)
    content = bytearray(template.read_bytes())
    content[position] = value
    with contextlib.suppress(UnsupportedModel):
        describe([written(tmp_path, bytes(content))])

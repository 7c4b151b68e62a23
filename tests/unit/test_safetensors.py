"""The safetensors reader: what it says about models, and that no file does worse than a refusal."""

from __future__ import annotations

import json
import os
import struct
import time
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model_runner.errors import UnsupportedModel
from model_runner.formats.beginnings import HeaderGoesOn
from model_runner.formats.safetensors import decimal_size, describe, parse_header, read_header
from support.tiny_safetensors import file_of, tensor, write_safetensors


def written(tmp_path, content: bytes, name: str = "model.safetensors"):
    path = tmp_path / name
    path.write_bytes(content)
    return path


def raw(header: bytes, data: int = 0) -> bytes:
    return struct.pack("<Q", len(header)) + header + bytes(data)


def test_all_files_are_described_as_one_model(tmp_path):
    paths = [
        write_safetensors(
            tmp_path / f"model-{number:05d}-of-00003.safetensors",
            {"a": ("BF16", (3, 1000)), "b": ("BF16", ())},
            format="pt",
        )
        for number in (1, 2, 3)
    ]
    config = tmp_path / "config.json"
    config.write_text('{"model_type": "qwen3", "max_position_embeddings": 40960}')
    metadata = describe(paths, config)
    assert metadata.architecture == "qwen3"
    assert metadata.parameters == "9.00K"
    assert metadata.quantization == "BF16"
    assert metadata.context_size == 40960
    assert metadata.safetensors == {"format": "pt", "tensor_count": "6"}
    assert metadata.size == decimal_size(sum(path.stat().st_size for path in paths))
    assert read_header(paths[0]).missing == 0


@pytest.mark.parametrize(
    ("dtypes", "shown"),
    [
        (("F32", "F32"), "F32"),
        (("F32", "BF16"), "mixed"),
        ((), "unknown"),
        (("F9_E9M9",), "F9_E9M9"),
    ],
)
def test_the_type_of_the_tensors_is_told(tmp_path, dtypes, shown):
    tensors = {str(number): (dtype, (1,)) for number, dtype in enumerate(dtypes)}
    assert describe([write_safetensors(tmp_path / "m.safetensors", tensors)]).quantization == shown


@pytest.mark.parametrize(
    ("config", "architecture", "context"),
    [
        ("{}", "", None),
        ("no JSON", "", None),
        ("[1]", "", None),
        ("[" * 100_000, "", None),
        ('{"architectures": ["LlamaForCausalLM"], "n_ctx": 2048}', "LlamaForCausalLM", 2048),
        ('{"architectures": [1], "n_ctx": 0, "n_positions": 7}', "", 7),
        ('{"model_type": 3, "max_length": true, "model_max_length": 99999999999}', "", None),
        ('{"model_type": "gemma3", "text_config": {"max_position_embeddings": 5}}', "gemma3", 5),
    ],
)
def test_architecture_and_context_come_from_the_configuration(
    tmp_path, config, architecture, context
):
    path = write_safetensors(tmp_path / "m.safetensors", {"a": ("F32", (1,))})
    (tmp_path / "config.json").write_text(config)
    metadata = describe([path], tmp_path / "config.json")
    assert (metadata.architecture, metadata.context_size) == (architecture, context)


def test_the_writers_own_word_on_the_architecture_comes_first(tmp_path):
    path = write_safetensors(
        tmp_path / "m.safetensors", {"a": ("F32", (1,))}, architecture='s\u00e9 "quoted"\n'
    )
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert describe([path], tmp_path / "config.json").architecture == 's\u00e9 "quoted"\n'


def test_members_may_come_in_any_order_and_with_any_space(tmp_path):
    header = b"""{ "b" : {"shape":[2 , 3],"data_offsets":[0 ,24], "dtype":"F32"} ,
        "__metadata__" : { } , "\\u0061\\"" : { "dtype" : "U8" , "shape" : [ ] , "data_offsets" :
        [ 24 , 25 ] } }   """
    read = read_header(written(tmp_path, raw(header, 25)))
    assert (read.parameters, read.tensor_count, read.missing) == (7, 2, 0)
    assert read.dtypes == {"F32", "U8"}


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "n/a"), (999, "999.00B"), (1000, "1.00kB"), (3 * 10**9, "3.00GB"), (10**22, "10000.00EB")],
)
def test_sizes_are_decimal(count, shown):
    assert decimal_size(count) == shown


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"{}", "not a safetensors file"),
        (b"PK\3\4" + bytes(100), "not a safetensors file"),
        (struct.pack("<Q", 2**63) + b"{}", "not a safetensors file"),
        (struct.pack("<Q", 2**64 - 1) + b"{}", "not a safetensors file"),
        (struct.pack("<Q", 100) + b"{}", "truncated"),
        (struct.pack("<Q", 0) + b"{}", "damaged header"),
        (struct.pack("<Q", 9), "not a safetensors file"),
        (raw(b"{}}"), "goes on after its end"),
        (file_of([tensor("a", "U8", (4,)), tensor("b", "U8", (4,), 2)]), "overlap"),
        (file_of([tensor("a", "U8", (4,)), tensor("b", "U8", (4,), 100)]), "holes"),
        (file_of([tensor("a", "X9", (10**19,) * 16)]), "no disk could hold"),
        (raw(b'{"a":{"shape":[%b],"dtype":"X","data_offsets":[0,1]}}' % (b"9" * 1000)), "no disk"),
        (raw(b'{"a":1}'), "byte 13"),
        (raw(b'{"a":{}}'), "describes no tensor"),
        (raw(b'{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}}'), "describes no tensor"),
        (raw(b'{"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}}'), "describes no tensor"),
        (raw(b'{"a":{"dtype":"U8","shape":[true],"data_offsets":[0,1]}}'), "describes no tensor"),
        (raw(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,-1]}}'), "describes no tensor"),
        (raw(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0]}}'), "describes no tensor"),
        (raw(b'{"a":{"dtype":7,"shape":[1],"data_offsets":[0,1]}}'), "describes no tensor"),
        (raw(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,0]}}'), "another size"),
        (raw(b'{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,1]}}'), "another size"),
        (raw(b'{"__metadata__":{"a":1}}'), "byte"),
        (raw(b'{"__metadata__":{"a":"\\ud800\\q"}}'), "no text"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_the_reason(tmp_path, content, reason):
    with pytest.raises(UnsupportedModel, match=reason):
        read_header(written(tmp_path, content))


def test_the_beginning_of_a_file_will_do(tmp_path):
    path = write_safetensors(tmp_path / "a.safetensors", {"w": ("F32", [4, 4])})
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    with pytest.raises(HeaderGoesOn) as told:
        parse_header(content[: end - 1], path.name, len(content))
    assert told.value.needed == end
    assert parse_header(content[:end], path.name, len(content)) == read_header(path)


def test_missing_bytes_are_counted(tmp_path):
    path = write_safetensors(tmp_path / "m.safetensors", {"a": ("F32", (1000,))})
    os.truncate(path, path.stat().st_size - 1234)
    assert read_header(path).missing == 1234


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UnsupportedModel, match="no such file"):
        read_header(tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":' + b"[" * 20_000_000,
        b'{"a":{"b":[' + b"[]," * 7_000_000 + b"]}}",
        b'{"' + b"a" * 20_000_000 + b'":{}}',
        b'{"' + b"\\n" * 10_000_000 + b'":{}}',
        b'{"__metadata__":{"a":"' + b"b" * 20_000_000 + b'"}}',
        b'{"__metadata__":{' + b'"a":"bc",' * 6_000_000 + b'"a":""}}',
        b"{" + b'"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},' * 400_000 + b'"b":{}}',
    ],
    ids=["deep", "wide", "long name", "escaped name", "long text", "many texts", "many tensors"],
)
def test_hostile_headers_of_20_megabytes_take_no_memory(tmp_path, header):
    path = written(tmp_path, raw(header))
    del header
    tracemalloc.start()
    try:
        with pytest.raises(UnsupportedModel):
            read_header(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


def test_400_gigabytes_in_shards_are_described_at_once(tmp_path):
    count, experts = 160, 100
    size = 400 * 10**9 // count // experts // 1000 * 1000
    paths = [tmp_path / f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(count)]
    entries = [
        tensor(f"model.layers.1.mlp.experts.{n}.gate.weight", "U8", (1000, size // 1000), n * size)
        for n in range(experts)
    ]
    content = file_of(entries)
    for path in paths:
        path.write_bytes(content)
        os.truncate(path, len(content) + size * experts)  # sparse
    begin = time.process_time()
    metadata = describe(paths)
    # 0.06 s measured for these 16,000 tensors; reading the files would take minutes.
    assert time.process_time() - begin < 0.5
    assert metadata.size == "400.00GB"
    assert metadata.parameters == "400.00B"
    assert metadata.safetensors["tensor_count"] == "16000"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(position=st.integers(0, 400), value=st.integers(0, 255), cut=st.integers(0, 400))
def test_a_damaged_file_never_does_worse_than_a_refusal(tmp_path, position, value, cut):
    template = tmp_path / "template.safetensors"
    if not template.exists():
        tensors = {f"layer.{n}": ("F16", (2, 3)) for n in range(5)}
        write_safetensors(template, tensors, format="pt", note="\u00e9\n")
    content = bytearray(template.read_bytes())
    content[position % len(content)] = value
    try:
        metadata = describe([written(tmp_path, bytes(content[: len(content) - cut]))])
    except UnsupportedModel:
        return
    assert metadata.parameters
    json.dumps(metadata.safetensors)


@given(
    st.dictionaries(
        st.text(max_size=20).filter(lambda name: name != "__metadata__"),
        st.tuples(
            st.sampled_from(["F32", "BF16", "U8", "X7"]), st.lists(st.integers(0, 9), max_size=4)
        ),
        max_size=8,
    ),
    st.dictionaries(st.text(max_size=9), st.text(max_size=9), max_size=4),
    st.sampled_from([None, 2]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_what_a_json_parser_reads_is_read(tmp_path, tensors, notes, indent):
    path = write_safetensors(tmp_path / "m.safetensors", tensors, indent=indent)
    header = json.loads(path.read_bytes()[8 : 8 + struct.unpack("<Q", path.read_bytes()[:8])[0]])
    header["__metadata__"] = notes
    text = json.dumps(header, indent=indent, ensure_ascii=bool(indent)).encode()
    size = max(
        (entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"),
        default=0,
    )
    read = read_header(written(tmp_path, raw(text, size), "other.safetensors"))
    assert read.metadata == notes
    assert read.tensor_count == len(tensors)
    assert read.dtypes == {dtype for dtype, _ in tensors.values()}

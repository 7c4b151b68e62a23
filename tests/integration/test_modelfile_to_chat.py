"""Models made in Ollama's way: what a Modelfile says holds in every dialect, in a real engine."""

from __future__ import annotations

import hashlib
import json

import pytest

from support.server import add_model, running_server
from support.spoken_models import TOOLS
from support.tiny_gguf import SCRIPT, tiny_random, tiny_script, tiny_spoken

GO_TEMPLATE = """{{ if .System }}<<{{ .System }}>>
{{ end }}{{ if .Prompt }}[{{ .Prompt }}]
{{ end }}answer: {{ .Response }};
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    directory = tmp_path_factory.mktemp("create")
    add_model(directory, "ai/base")
    with running_server(directory) as running:
        yield running


def blob(server, path):
    content = path.read_bytes()
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    answer = server.request(f"/api/blobs/{digest}", content)
    assert answer.status in {200, 201}, answer.text
    return digest


def create(server, **fields):
    answer = server.request("/api/create", fields)
    assert answer.status == 200, answer.text
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert lines[-1] == {"status": "success"}, answer.text
    return [line["status"] for line in lines]


def prompt(server, model, *messages):
    body = {"model": model, "messages": [{"role": r, "content": c} for r, c in messages]}
    answer = server.request("/apply-template", body)
    assert answer.status == 200, answer.text
    return answer.json()["prompt"]


def test_what_a_modelfile_says_holds_in_openais_dialect(server, tmp_path):
    create(
        server,
        model="pirate",
        files={"tiny.gguf": blob(server, tiny_script(tmp_path / "tiny.gguf"))},
        template=GO_TEMPLATE,
        system="You're a {{ pirate }}.",
        messages=[
            {"role": "user", "content": "Who?"},
            {"role": "assistant", "content": "Me\n'n you"},
        ],
        parameters={"num_ctx": 512, "num_predict": 5, "temperature": 0},
    )
    assert prompt(server, "pirate", ("user", "Hi")) == (
        "<<You're a {{ pirate }}.>>\n[Who?]\nanswer: Me\n'n you;\n[Hi]\nanswer: "
    )
    assert prompt(server, "pirate", ("system", "Be you."), ("user", "Hi")).startswith("<<Be you.>>")
    answer = server.chat("pirate")
    assert answer.json()["choices"][0]["message"]["content"].strip() == " ".join(SCRIPT.split()[:5])
    tokens = answer.json()["usage"]["prompt_tokens"]
    assert tokens > server.chat("ai/base").json()["usage"]["prompt_tokens"]
    long = server.chat("pirate", messages=[{"role": "user", "content": "the " * 600}])
    assert long.status == 400, long.text
    assert "context" in long.text


def test_a_model_made_of_another_keeps_its_template_and_adds_to_it(server):
    base = prompt(server, "ai/base", ("system", "Terse."), ("user", "Hi"))
    statuses = create(server, model="terse", **{"from": "ai/base"}, system="Terse.")
    assert statuses[-2] == "writing manifest"
    assert sum(status.startswith("using existing layer sha256:") for status in statuses) == 1
    assert prompt(server, "terse", ("user", "Hi")) == base
    create(server, model="terser", **{"from": "terse"}, messages=[{"role": "user", "content": "Q"}])
    assert prompt(server, "terser", ("user", "Hi")) == base.replace(
        "user\nHi", "user\nQ<|im_end|>\n<|im_start|>user\nHi"
    )
    create(server, model="terser", **{"from": "terser"}, system="Loud.")
    assert "Terse." not in prompt(server, "terser", ("user", "Hi"))
    assert "Loud." in prompt(server, "terser", ("user", "Hi"))


QWEN = """{{- if .Messages }}
{{- if or .System .Tools }}<|im_start|>system
{{- if .System }}
{{ .System }}
{{- end }}
{{- if .Tools }}
<tools>
{{- range .Tools }}
{"type": "function", "function": {{ .Function }}}
{{- end }}
</tools>
{{- end }}<|im_end|>
{{ end }}
{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 -}}
{{- if eq .Role "user" }}<|im_start|>user
{{ .Content }}<|im_end|>
{{ else if eq .Role "assistant" }}<|im_start|>assistant
{{ if .Content }}{{ .Content }}
{{- else if .ToolCalls }}<tool_call>
{{ range .ToolCalls }}{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}
{{ end }}</tool_call>
{{- end }}{{ if not $last }}<|im_end|>
{{ end }}
{{- else if eq .Role "tool" }}<|im_start|>user
<tool_response>
{{ .Content }}
</tool_response><|im_end|>
{{ end }}
{{- if and (ne .Role "assistant") $last }}<|im_start|>assistant
{{ end }}
{{- end }}
{{- end }}"""


@pytest.mark.parametrize("stream", [True, False])
def test_calls_are_understood_with_a_template_of_ollamas(server, tmp_path, stream):
    said = (
        "\u2581Sure",
        "\n<tool_call>\n",
        '{"name":',
        '\u2581"get_weather",',
        '\u2581"arguments":',
    )
    said = (*said, '\u2581{"city":', '\u2581"Paris"', "}}", "\n</tool_call>")
    weights = tiny_spoken(tmp_path / "caller.gguf", said)
    create(server, model="caller", files={"m.gguf": blob(server, weights)}, template=QWEN)
    asked = {"model": "caller", "tools": TOOLS, "stream": stream, "options": {"temperature": 0}}
    asked["messages"] = [{"role": "user", "content": "Weather?"}]
    answer = server.request("/api/chat", asked)
    assert answer.status == 200, answer.text
    messages = [json.loads(line)["message"] for line in answer.text.splitlines()]
    assert "".join(message["content"] for message in messages).strip() == "Sure"
    (call,) = (call for message in messages for call in message.get("tool_calls", []))
    assert call["function"]["name"] == "get_weather"
    assert call["function"]["arguments"] == {"city": "Paris"}


def test_a_gap_is_filled_by_tokens_or_as_the_template_says(server, tmp_path):
    # Only the text of a token tells that it is for gaps.
    weights = tiny_spoken(
        tmp_path / "fim.gguf", ("\u2581no", "<PRE>", "<SUF>", "<MID>", "\u2581filled")
    )
    create(server, model="fim", files={"m.gguf": blob(server, weights)})
    plain = tiny_script(tmp_path / "plain.gguf")
    template = "{{ if .Suffix }}<{{ .Prompt }}|{{ .Suffix }}>{{ else }}{{ .Prompt }}{{ end }}"
    create(server, model="gaps", files={"m.gguf": blob(server, plain)}, template=template)
    create(server, model="none", files={"m.gguf": blob(server, plain)})
    options = {"temperature": 0, "num_predict": 1}
    gap = {"prompt": "def f(", "suffix": "return", "stream": False, "options": options}
    for model, word in (("fim", "filled"), ("gaps", SCRIPT.split()[0])):
        shown = server.request("/api/show", {"model": model}).json()
        assert "insert" in shown["capabilities"]
        answer = server.request("/api/generate", {"model": model, **gap})
        assert answer.json()["response"].strip() == word, answer.text
    refused = server.request("/api/generate", {"model": "none", **gap})
    assert refused.status == 400
    assert '"none" does not support insert' in refused.json()["error"]


def test_shards_and_a_jinja_template(server, tmp_path):
    first = tiny_random(tmp_path / "random.gguf", shards=2)
    files = {path.name: blob(server, path) for path in first.parent.glob("*-of-00002.gguf")}
    jinja = "{% for m in messages %}({{ m.role }}: {{ m.content }}){% endfor %}"
    create(server, model="sharded:v1", files=files, template=jinja, system="S")
    assert prompt(server, "sharded:v1", ("user", "Hi")) == "(system: S)(user: Hi)"
    assert server.chat("sharded:v1", max_tokens=4).status == 200


def test_a_large_file_passes_the_data_plane_whether_or_not_it_is_here(server, tmp_path):
    content = bytes(range(256)) * (100 << 12)  # 100 MiB: more than other bodies may have
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    for status in (201, 200):
        # Ollama's command sends without asking, in chunks, and gives up if it cannot go on.
        connection = server.connect()
        pieces = (content[at : at + (1 << 20)] for at in range(0, len(content), 1 << 20))
        connection.request("POST", f"/api/blobs/{digest}", pieces, encode_chunked=True)
        assert connection.getresponse().status == status
        connection.close()
    assert server.request(f"/api/blobs/{digest}", method="HEAD").status == 200

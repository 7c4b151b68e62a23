"""Templates in Go's language: what Jinja makes of them is what Go's text/template makes of them.

The texts that are expected were rendered with Go 1.26, in the way that Ollama runs its templates.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from model_runner.errors import InvalidTemplate
from model_runner.formats.go_to_jinja import is_jinja, takes_suffix, to_jinja
from model_runner.formats.rendering import render

GOLDEN = json.loads((Path(__file__).parents[1] / "fixtures" / "go_templates.json").read_text())
CASES = [(name, case) for name, texts in GOLDEN["expected"].items() for case in texts]


def given(case):
    values = dict(GOLDEN["cases"][case])
    if "think" in values:
        values["enable_thinking"] = values.pop("think")
    return values


@pytest.mark.parametrize(("name", "case"), CASES)
def test_the_same_text_comes_out_as_of_go(name, case):
    text = render(to_jinja(GOLDEN["templates"][name]), given(case))
    # Go's encoder of JSON writes these so, wherever the text is for.
    for letter, escape in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026")):
        text = text.replace(letter, escape)
        expected = GOLDEN["expected"][name][case].replace(letter, escape)
        GOLDEN["expected"][name][case] = expected
    assert text == GOLDEN["expected"][name][case]


def test_arguments_may_come_as_text_as_in_openais_dialect():
    jinja = to_jinja(
        "{{ range .Messages }}{{ range .ToolCalls }}{{ .Function.Arguments }}{{ end }}{{ end }}"
    )
    call = {"function": {"name": "f", "arguments": '{"a": 1}'}}
    messages = [{"role": "assistant", "content": None, "tool_calls": [call]}]
    assert render(jinja, {"messages": messages}) == '{"a": 1}'


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("{{ .Prompt", "not closed"),
        ("a\nb {{ if .Prompt }}x", "`if` has no `end`"),
        ("{{ end }}", "an `end` too many"),
        ("{{ if .System }}{{ else }}{{ else }}{{ end }}", "two `else`"),
        ("{{ }}", "empty"),
        ("{{ if }}x{{ end }}", "value is missing"),
        ("{{ .Prompt ) }}", "`)` is unexpected"),
        ("{{ ( .Prompt }}", "not closed"),
        ("{{ 'x' }}", "no word of Go's"),
        ('{{ "\\xzz" }}', "no text of Go's"),
        ("{{ .Nothing }}", "`.Nothing`"),
        ("{{ range .Messages }}{{ .Images }}{{ end }}", "`.Images`"),
        ("{{ $x }}", "`$x`"),
        ("{{ yesterdayDate }}", "`yesterdayDate`"),
        ("{{ html .Prompt }}", "`html`"),
        ('{{ printf "%5d" 1 }}', "`%5`"),
        ('{{ printf "%s" }}', "without its value"),
        ('{{ printf "x" 1 }}', "more values"),
        ("{{ printf .Prompt }}", "not constant"),
        ('{{ template "x" . }}', "`x`"),
        ('{{ define "x" }}{{ template "x" . }}{{ end }}{{ template "x" . }}', "in itself"),
        ("{{ . }}", "all that it was given"),
        ("{{ json . }}", "all that it was given"),
        ("{{ .Prompt .System }}", "`.Prompt` is no function"),
        ("{{ $a, $b := .Messages }}", "two variables"),
        ("{{ else if .Prompt }}", "too many"),
        ("{{ define }}{{ end }}", "no name"),
        ("{{ if .Prompt }}" * 60 + "{{ end }}" * 60, "50 deep"),
        ("{{ " + "(" * 60 + ".Prompt" + ")" * 60 + " }}", "50 deep"),
        ("x" * (1 << 20) + "y", "more than"),
        (
            '{{ define "a" }}' + "x" * 5000 + "{{ end }}"
            '{{ define "b" }}' + '{{ template "a" . }}' * 40 + "{{ end }}"
            '{{ define "c" }}' + '{{ template "b" . }}' * 40 + '{{ end }}{{ template "c" . }}',
            "too often",
        ),
    ],
)
def test_what_cannot_be_converted_is_named(source, named):
    with pytest.raises(InvalidTemplate) as refused:
        to_jinja(source)
    assert named in str(refused.value)


def test_an_error_says_where_it_is():
    with pytest.raises(InvalidTemplate, match="line 3 of the template"):
        to_jinja("one\ntwo\n{{ if .Prompt }}{{ ? }}")


def test_the_languages_are_told_apart():
    assert all(not is_jinja(template) for template in GOLDEN["templates"].values())
    assert not is_jinja("### Only text:")
    assert is_jinja("{{ messages[0].content }}")
    assert is_jinja("{%- if tools -%}x{%- endif -%}")
    assert [name for name, text in GOLDEN["templates"].items() if takes_suffix(text)] == [
        "qwen",
        "fill-in",
    ]


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("{{ 'x' * 99999999999 }}", "`*`"),
        ("{{ 9 ** 999999999 }}", "`**`"),
        ("{{ '%999999999999d' % 1 }}", "`%`"),
        (
            "{% set n = namespace(x='xxxxxxxx') %}"
            "{% for i in range(64) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
            "more than",
        ),
        (
            "{% set n = namespace(x='xxxxxxxx') %}"
            "{% for i in range(64) %}{% set n.x = n.x + n.x %}{% endfor %}",
            "more than",
        ),
        ("{% for x in %}", "line 1"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ raise_exception('no system prompt') }}", "no system prompt"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{% include 'x' %}", "no loader"),
        ("{% set x = messages.append(1) %}", "'append' of"),
    ],
)
def test_a_template_is_rendered_within_bounds(source, named):
    with pytest.raises(InvalidTemplate) as refused:
        render(source, {"messages": []})
    assert named in str(refused.value)


def test_a_template_that_never_ends_is_ended():
    source = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(InvalidTemplate, match="it takes longer"):
        render(source, {}, seconds=0.1)

"""Merging what several engines export."""

from __future__ import annotations

from model_runner.telemetry.exposition import Exposition

LLAMA = """\
# HELP llamacpp:prompt_tokens_total Number of prompt tokens processed.
# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total 12
# HELP llamacpp:n_tokens_max Largest observed n_tokens.
# TYPE llamacpp:n_tokens_max counter
llamacpp:n_tokens_max 7
# HELP llamacpp:accepted_total Accepted tokens.
# TYPE llamacpp:accepted_total counter
llamacpp:accepted_total{position="0"} 3
llamacpp:accepted_total{position="1"} 1 1700000000000
"""


def merged(*exports):
    exposition = Exposition()
    for text, model in exports:
        exposition.add(text, {"backend": "llama.cpp", "model": model})
    return exposition.render()


def test_families_of_two_engines_become_one():
    text = merged((LLAMA, "ai/a"), (LLAMA.replace(" 12", " 99"), "ai/b"))
    assert text.count("# TYPE llamacpp:prompt_tokens_total counter\n") == 1
    assert text.count("# HELP llamacpp:prompt_tokens_total ") == 1
    block = text[text.index("# HELP llamacpp:prompt_tokens_total") :].splitlines()
    assert block[2:4] == [
        'llamacpp:prompt_tokens_total{backend="llama.cpp",model="ai/a"} 12',
        'llamacpp:prompt_tokens_total{backend="llama.cpp",model="ai/b"} 99',
    ]


def test_names_stay_as_the_engine_wrote_them():
    text = merged((LLAMA, "ai/a"))
    assert "# TYPE llamacpp:n_tokens_max counter\n" in text
    assert '\nllamacpp:n_tokens_max{backend="llama.cpp",model="ai/a"} 7\n' in text


def test_own_labels_are_kept_and_values_escaped():
    text = merged((LLAMA, 'a"b\\c\n'))
    expected = 'accepted_total{backend="llama.cpp",model="a\\"b\\\\c\\n",position="1"} 1\n'
    assert expected in text


def test_a_family_of_another_type_is_left_out():
    gauge = "# TYPE llamacpp:n_tokens_max gauge\nllamacpp:n_tokens_max 1\n"
    text = merged((LLAMA, "ai/a"), (gauge, "ai/b"))
    assert 'n_tokens_max{backend="llama.cpp",model="ai/a"}' in text
    assert "ai/b" not in text


def test_histograms_stay_together():
    histogram = (
        "# TYPE wait histogram\n"
        'wait_bucket{le="1"} 2\nwait_bucket{le="+Inf"} 3\nwait_sum 4.5\nwait_count 3\n'
    )
    text = merged((histogram, "ai/a"), (histogram, "ai/b"))
    assert text.count("# TYPE") == 1
    assert text.startswith("# TYPE wait histogram\n")
    assert 'wait_count{backend="llama.cpp",model="ai/b"} 3\n' in text


def test_lines_that_are_no_metrics_are_skipped():
    noise = 'hello\n{} 1\nx{broken="1} 2\nx one\n# EOF\n\nx{} +Inf\n'
    assert merged((noise, "m")) == '# TYPE x untyped\nx{backend="llama.cpp",model="m"} +Inf\n'


def test_nothing_is_nothing():
    assert merged() == ""

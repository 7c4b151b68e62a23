"""How tables, ages, sizes and names look."""

from datetime import datetime, timezone
from io import StringIO

import pytest

from model_runner.cli.output import byte_size, duration, model_name, print_table, short_id
from model_runner.cli.progress import Lines
from model_runner.cli.runners import idle_until, keep_alive_seconds
from model_runner.client import PullEvent

NOON = datetime(2026, 7, 22, 12, 0, 0, tzinfo=timezone.utc)
DAY = 86400


def test_table_is_aligned_left_without_trailing_spaces(capsys):
    print_table(("NAME", "SIZE"), [("a-long-name", ""), ("b", "1 GiB")])
    assert capsys.readouterr().out == "NAME         SIZE\na-long-name\nb            1 GiB\n"


def test_table_without_rows_still_has_its_header(capsys):
    print_table(("NAME", "SIZE"), [])
    assert capsys.readouterr().out == "NAME  SIZE\n"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "Less than a second"), (1, "1 second"), (59.9, "59 seconds"), (60, "About a minute"),
        (119, "About a minute"), (120, "2 minutes"), (3599, "59 minutes"), (3600, "About an hour"),
        (5399, "About an hour"), (5401, "2 hours"), (2 * DAY - 1, "48 hours"), (2 * DAY, "2 days"),
        (13 * DAY, "13 days"), (14 * DAY, "2 weeks"), (59 * DAY, "8 weeks"), (60 * DAY, "2 months"),
        (729 * DAY, "24 months"), (730 * DAY, "2 years"),
    ],
)  # fmt: skip
def test_duration_in_the_largest_unit_that_says_enough(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (11300, "11.3 kB"), (256_350_000, "256.4 MB"), (3e12, "3.0 TB")],
)
def test_byte_size_in_decimal_units(count, text):
    assert byte_size(count) == text


def test_names_and_ids_are_shown_without_what_goes_without_saying():
    def shown(name, registry="docker.io"):
        return model_name(name, default_registry=registry)

    digest = "sha256:" + "0123456789ab" + "0" * 52
    assert short_id(digest) == "0123456789ab"
    assert shown(digest) == "0123456789ab"
    assert shown("docker.io/ai/smollm2:latest") == "smollm2"
    assert shown("ai/smollm2") == "smollm2"
    assert shown("huggingface.co/org/m:Q4_K_M") == "huggingface.co/org/m:Q4_K_M"
    assert shown("example.com/ai/smollm2:latest", "example.com") == "smollm2"
    assert shown("docker.io/ai/smollm2:latest", "example.com") == "docker.io/ai/smollm2"


@pytest.mark.parametrize(
    ("last_used", "keep_alive", "words"),
    [
        ("2026-07-22T11:59:00.123456789Z", "5m0s", "4 minutes from now"),
        ("2026-07-22T13:59:00.5+02:00", "5m0s", "4 minutes from now"),
        ("2026-07-22T11:59:00Z", "", "4 minutes from now"),
        ("2026-07-22T11:59:58Z", "1h30m0s", "About an hour from now"),
        ("2026-07-22T11:00:00Z", "5m0s", "Expiring"),
        ("2026-07-22T11:59:59Z", "0s", "Expiring"),
        ("2020-01-01T00:00:00Z", "-1", "Forever"),
        ("2020-01-01T00:00:00Z", "-1ns", "Forever"),
        ("0001-01-01T00:00:00Z", "5m0s", "5 minutes from now"),
    ],
)
def test_idle_until_in_words(last_used, keep_alive, words):
    assert idle_until(last_used, keep_alive, NOON) == words


def test_keep_alive_is_a_go_duration():
    assert keep_alive_seconds("1h2m3.5s") == pytest.approx(3723.5)
    assert keep_alive_seconds("250ms") == pytest.approx(0.25)
    assert keep_alive_seconds("0") == 0
    assert keep_alive_seconds("-5m0s") < 0


def test_long_pull_tells_a_log_how_far_it_is_now_and_then():
    stream, seconds = StringIO(), iter([0.0, 1.0, 16.0, 16.0, 17.0, 18.0])
    lines = Lines(stream, clock=lambda: next(seconds))
    for current in (10, 20, 30, 100):
        layer = "sha256:" + "ab" * 32
        lines.update(PullEvent("progress", "", 100_000_000, layer, 10**8, current * 10**6))
    assert (
        stream.getvalue() == "20.0 MB of 100.0 MB downloaded\nabababababab: 100.0 MB downloaded\n"
    )

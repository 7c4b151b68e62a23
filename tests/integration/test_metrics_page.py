"""`/metrics` of a whole server with a real engine."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from support.server import running_server, wait_until

DOCUMENT = Path(__file__).parents[2] / "METRICS.md"


def test_the_page_is_valid_and_every_name_on_it_is_documented(chat_server):
    chat_server.chat("ai/tiny-script", max_tokens=4)
    page = chat_server.request("/metrics")
    assert page.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    names = re.findall(r"^# TYPE (\S+) ", page.text, re.M)
    assert len(names) == len(set(names))
    assert len(list(text_string_to_metric_families(page.text))) == len(names)
    assert "llamacpp:tokens_predicted_total" in names
    documented = re.findall(r"`([a-z]+[:_]\w+)`", DOCUMENT.read_text("utf-8"))
    assert set(names) <= set(documented)


def test_scrapes_do_not_keep_a_model_loaded(models):
    with running_server(models, MODEL_RUNNER_KEEP_ALIVE="0.5") as server:
        server.chat("ai/tiny-script", max_tokens=4)

        def page():
            return server.request("/metrics").text

        assert "llamacpp:" in page()
        wait_until(lambda: "llamacpp:" not in page(), "the idle model to be unloaded")
        assert server.metric("model_runner_requests_total") == 1
        assert server.metric("model_runner_idle_unloads_total") == 1


def test_a_scrape_loads_nothing_and_may_be_turned_off(models):
    with running_server(models) as server:
        assert server.metric("model_runner_build_info") == 1
        assert server.request("/engines/ps").json() == []
        assert server.engine_pids() == []
    with running_server(models, DISABLE_METRICS="1") as server:
        answer = server.request("/metrics")
        assert (answer.status, answer.text) == (404, "404 page not found\n")

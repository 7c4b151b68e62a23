"""run: one answer, piped input, and a conversation in a real terminal."""

import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from model_runner.cli import main
from support.scripted_server import scripted_server
from support.terminal import Terminal

CHAT = "/engines/v1/chat/completions"
ARGV = [sys.executable, "-m", "model_runner.cli", "run"]


@pytest.fixture(name="server")
def _server(monkeypatch):
    with scripted_server() as server:
        monkeypatch.setenv("MODEL_RUNNER_HOST", server.address)
        yield server


@pytest.fixture(name="chat")
def _chat(server):
    with Terminal([*ARGV, "ai/smollm2"], {**os.environ, "TERM": "xterm"}) as terminal:
        terminal.expect("> ")
        yield terminal


def invoke(*arguments, stdin=""):
    return CliRunner().invoke(main, ["run", *arguments], input=stdin)


def questions(server):
    """The messages of each chat, without those that only load."""
    return [body["messages"] for body in server.bodies(CHAT) if body["messages"]]


def test_answer_goes_to_stdout_and_ends_with_a_line_end(server):
    result = invoke("ai/smollm2", "Say", "hello")
    assert (result.stdout, result.stderr, result.exit_code) == ("Hello, wörld!\n", "", 0)
    assert questions(server) == [[{"role": "user", "content": "Say hello"}]]


def test_piped_text_is_appended_to_the_prompt(server):
    invoke("ai/smollm2", "Summarise:", stdin="first line\nsecond line\n")
    invoke("ai/smollm2", stdin="only this")
    contents = [messages[0]["content"] for messages in questions(server)]
    assert contents == ["Summarise:\n\nfirst line\nsecond line", "only this"]


def test_nothing_to_ask_and_nobody_to_chat_with_is_wrong_usage(server):
    result = invoke("ai/smollm2")
    assert result.exit_code == 2
    assert "the prompt is empty" in result.stderr
    assert server.requests == []


def test_thoughts_do_not_get_into_a_pipe(server):
    result = invoke("ai/smollm2", "think")
    assert result.stdout == "Hello, wörld!\n"
    assert result.stderr == "Thinking:\nHmm, let me see.\n\n"


def test_verbose_tells_tokens_and_speeds_on_stderr(server):
    result = invoke("ai/smollm2", "Hi", "--verbose")
    assert result.stdout == "Hello, wörld!\n"
    assert "prompt      12 tokens (4 cached), 80.0 tokens/s\n" in result.stderr
    assert "completion  3 tokens, 25.5 tokens/s\n" in result.stderr
    assert "time        first token after " in result.stderr


def test_missing_model_is_pulled_first_and_stdout_stays_clean(server):
    result = invoke("ai/fresh", "Hi")
    assert (result.stdout, result.exit_code) == ("Hello, wörld!\n", 0)
    assert result.stderr == (
        "ai/fresh is not on this machine: pulling it\n"
        "3f2a1b0c3f2a: 3.1 MB downloaded\n"
        "Model pulled successfully\n"
    )


def test_model_that_exists_nowhere_ends_with_not_found(server):
    result = invoke("ai/missing", "Hi")
    assert result.exit_code == 4
    assert "Error: Model not found" in result.stderr


def test_detach_only_loads(server):
    result = invoke("--detach", "ai/smollm2")
    assert (result.stdout, result.exit_code) == ("", 0)
    assert server.headers(CHAT)["X-Preload-Only"] == "true"
    assert questions(server) == []


@pytest.mark.parametrize(
    ("question", "error"),
    [
        ("crash", "Error: the engine was killed by signal 9\n"),
        ("stop early", "Error: the stream ended early\n"),
    ],
)
def test_answer_that_breaks_off_is_kept_and_reported(server, question, error):
    result = invoke("ai/smollm2", question)
    assert result.exit_code == 1
    assert result.stdout == "Hello, wörld!\n"
    assert error in result.stderr


@pytest.mark.parametrize(("model", "exit_code"), [("ai/crowded", 7), ("ai/damaged", 1)])
def test_model_that_cannot_be_loaded_says_why(server, model, exit_code):
    result = invoke(model, "Hi")
    assert result.exit_code == exit_code
    assert result.stderr.startswith("Error: ")


def test_reader_that_leaves_gets_no_traceback(server):
    with subprocess.Popen(
        [*ARGV, "ai/smollm2", "Hi"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) != 0


@pytest.mark.parametrize("arguments", [["list"], ["run", "ai/smollm2", "Hi"], ["--help"]])
def test_output_that_cannot_be_written_is_told_in_a_line(server, arguments):
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        done = subprocess.run(
            [*ARGV[:-1], *arguments],
            stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
    assert done.stderr == b"Error: cannot write the output: no space left on device\n"
    assert done.returncode == 1


def test_ctrl_c_while_the_program_starts_is_no_traceback(tmp_path):
    (tmp_path / "click.py").write_text("raise KeyboardInterrupt\n")
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [*ARGV, "x"], env={**os.environ, "PYTHONPATH": paths}, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (130, b"")


def test_ctrl_c_ends_one_answer_with_130_and_tells_the_server(server):
    argv = [*ARGV, "ai/smollm2", "go on for ever"]
    with Terminal(argv, {**os.environ, "TERM": "xterm"}) as terminal:
        terminal.expect("wörld!")
        terminal.type("\x03")
        assert terminal.wait() == 130
    assert "Traceback" not in terminal.shown
    assert server.listener_left.wait(10)


def test_conversation_is_kept_from_one_message_to_the_next(server, chat):
    chat.type("/set system be brief\r")
    chat.expect("system message set")
    chat.type("one\r")
    chat.expect("Hello, wörld!\n\n> ")
    chat.type("two\r")
    chat.expect("Hello, wörld!\n\n> ", after="two")
    chat.type("/clear\r")
    chat.expect("new conversation")
    chat.type("/set system\r")
    chat.expect("cleared")
    chat.type("three\r")
    chat.expect("Hello, wörld!\n\n> ", after="three")
    chat.type("/bye\r")
    assert chat.wait() == 0
    first, second, third = questions(server)
    assert first == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "one"},
    ]
    assert second == [
        *first,
        {"role": "assistant", "content": "Hello, wörld!"},
        {"role": "user", "content": "two"},
    ]
    assert third == [{"role": "user", "content": "three"}]


def test_ctrl_c_cuts_an_answer_short_and_the_chat_goes_on(server, chat):
    chat.type("go on for ever\r")
    chat.expect("wörld!")
    chat.type("\x03")
    chat.expect("> ", after="wörld!")
    assert server.listener_left.wait(10)
    chat.type("and now?\r")
    chat.expect("Hello, wörld!\n\n> ", after="and now?")
    chat.type("\x04")
    assert chat.wait() == 0
    assert [message["content"] for message in questions(server)[-1]] == [
        "go on for ever",
        "Hello, wörld!",
        "and now?",
    ]


def test_failed_answer_leaves_the_chat_as_it_was(server, chat):
    chat.type("crash\r")
    chat.expect("Error: the engine was killed by signal 9\n")
    chat.expect("> ", after="signal 9")
    chat.type("again\r")
    chat.expect("Hello, wörld!\n\n> ", after="again")
    chat.type("/bye\r")
    assert chat.wait() == 0
    assert questions(server)[-1] == [{"role": "user", "content": "again"}]


def test_lines_between_triple_quotes_are_one_message(server, chat):
    chat.type('"""first\r')
    chat.expect(". ")
    chat.type('second"""\r')
    chat.expect("Hello, wörld!")
    assert questions(server)[-1][0]["content"] == "first\nsecond"


def test_help_unknown_commands_and_ctrl_c_at_the_prompt(server, chat):
    chat.type("/nonsense\r")
    chat.expect("no such command: `/nonsense`")
    chat.type("/?\r")
    chat.expect("> ", after="cuts an answer short.\n")
    chat.type("\x03")
    chat.expect("/bye or Ctrl-D to leave\n> ", after="cuts an answer short")
    assert questions(server) == []


def test_thoughts_are_shown_before_the_answer(server, chat):
    chat.type("think\r")
    chat.expect("Thinking:\nHmm, let me see.\n\nHello, wörld!\n\n> ")

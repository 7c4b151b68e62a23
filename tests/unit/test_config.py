"""Settings: which variables, keys and values there are, and how a wrong one is told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from model_runner.cli import main
from model_runner.cli.settings import load_settings
from model_runner.config import Settings
from model_runner.errors import InvalidRequest


@pytest.fixture(autouse=True)
def file(tmp_path, monkeypatch):
    """The configuration file, empty; and no variable of whoever runs the tests."""
    for field in Settings.model_fields.values():
        monkeypatch.delenv(str(field.validation_alias), raising=False)
    path = tmp_path / "config.toml"
    path.touch()
    monkeypatch.setenv("MODEL_RUNNER_CONFIG", str(path))
    return path


@pytest.mark.parametrize("case", [str.upper, str.lower, str.title])
def test_variables_named_like_a_setting_are_other_programs_business(monkeypatch, case):
    usual = load_settings()
    aliases = {field.validation_alias for field in Settings.model_fields.values()}
    for name in {case(name) for name in Settings.model_fields} - aliases:
        monkeypatch.setenv(name, "7")
    assert load_settings() == usual


def test_host_and_port_of_another_program_do_not_open_the_server(monkeypatch):
    for name, value in {
        "HOST": "0.0.0.0",  # what a web application's container sets
        "host": "0.0.0.0",
        "PORT": "80",
        "SLOTS": "9",
        "SOCKET": "/run/other.sock",
        "KEEP_ALIVE": "5",
    }.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert (settings.host, settings.tcp_port, settings.socket) == ("127.0.0.1", 12434, None)
    assert (settings.slots, settings.keep_alive) == (2, 300)


def test_every_setting_has_a_variable_of_its_own():
    aliases = [field.validation_alias for field in Settings.model_fields.values()]
    assert all(isinstance(alias, str) and alias.isupper() for alias in aliases)
    assert len(set(aliases)) == len(aliases)


def test_flag_beats_variable_beats_file(file, monkeypatch):
    file.write_text('host = "from.file"\nport = 1\nslots = 3\nkeep_alive = -1\n')
    monkeypatch.setenv("MODEL_RUNNER_PORT", "2")
    monkeypatch.setenv("MODEL_RUNNER_SLOTS", "")
    monkeypatch.setenv("MODEL_RUNNER_LISTEN_HOST", "from.variable")
    settings = load_settings({"host": "from.flag", "keep_alive": None})
    assert (settings.host, settings.port) == ("from.flag", 2)
    assert (settings.slots, settings.keep_alive) == (3, -1)


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("keepalive", "keep_alive"),
        ("keep-alive", "keep_alive"),
        ("MODEL_RUNNER_KEEP_ALIVE", "keep_alive"),
        ("MODEL_RUNNER_LISTEN_HOST", "host"),
        ("Port", "port"),
        ("model_path", "models_path"),
    ],
)
def test_unknown_key_in_the_file_is_refused_with_the_nearest_known_one(file, key, meant):
    file.write_text(f"slots = 3\n{key} = 60\n")
    result = CliRunner().invoke(main, ["serve"])
    assert result.exit_code == 2
    assert result.stderr == (
        f"Error: `{file}` has the unknown key `{key}`\nhint: did you mean `{meant}`?\n"
    )


def test_table_in_the_file_is_an_unknown_key(file):
    file.write_text("[zoological]\nport = 1\n")
    with pytest.raises(InvalidRequest, match="unknown key `zoological`") as caught:
        load_settings()
    assert caught.value.hint == "README.md lists the settings"


def test_file_that_was_asked_for_must_be_there(file, monkeypatch):
    for missing in (file.with_name("missing.toml"), file.parent):
        monkeypatch.setenv("MODEL_RUNNER_CONFIG", str(missing))
        result = CliRunner().invoke(main, ["serve"])
        assert result.exit_code == 2
        assert f"MODEL_RUNNER_CONFIG names `{missing}`, which is not a file" in result.stderr


def test_file_at_its_usual_place_may_be_missing(file, monkeypatch, tmp_path):
    monkeypatch.setenv("MODEL_RUNNER_CONFIG", "")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "etc"))
    assert load_settings().slots == 2
    usual = tmp_path / "etc" / "model-runner" / "config.toml"
    usual.parent.mkdir(parents=True)
    usual.write_text("slots = 5")
    assert load_settings().slots == 5


@pytest.mark.parametrize("content", [b"port = [", b'host = "\xff"'])
def test_file_that_is_no_toml_is_named(file, content):
    file.write_bytes(content)
    with pytest.raises(InvalidRequest, match=r"cannot read `.*config\.toml`: "):
        load_settings()


@pytest.mark.parametrize(
    ("written", "level"),
    [("WARN", "warning"), ("Warning", "warning"), (" 'debug' ", "debug"), ("ERROR", "error")],
)
def test_level_is_spelled_in_any_case(monkeypatch, written, level):
    monkeypatch.setenv("LOG_LEVEL", written)
    assert load_settings().log_level == level
    assert load_settings({"log_level": "INFO"}).log_level == "info"


def test_unknown_level_is_refused_wherever_it_comes_from(file, monkeypatch):
    expected = "input should be 'debug', 'info', 'warning' or 'error', not `loud`"
    by_flag = CliRunner().invoke(main, ["serve", "--log-level", "loud"])
    file.write_text('log_level = "loud"')
    by_file = CliRunner().invoke(main, ["serve"])
    file.write_text("")
    monkeypatch.setenv("LOG_LEVEL", "loud")
    by_variable = CliRunner().invoke(main, ["serve"])
    for result, place in (
        (by_flag, "`--log-level`"),
        (by_file, f"`log_level` in `{file}`"),
        (by_variable, "`LOG_LEVEL`"),
    ):
        told = f"Error: invalid setting {place}: {expected}\n"
        assert (result.stderr, result.exit_code) == (told, 2)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MODEL_RUNNER_KEEP_ALIVE", "inf"),
        ("MODEL_RUNNER_KEEP_ALIVE", "nan"),
        ("MODEL_RUNNER_STOP_GRACE", "inf"),
        ("MODEL_RUNNER_STOP_GRACE", "1e300"),
        ("MODEL_RUNNER_LOAD_STALL_TIMEOUT", "inf"),
        ("MODEL_RUNNER_QUEUE_LIMIT", "1000001"),
        ("MODEL_RUNNER_BODY_LIMIT", str(2**64)),
    ],
)
def test_number_that_nothing_could_work_with_is_refused(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidRequest, match=rf"`{variable}`: input should be .*not `"):
        load_settings()


def test_quotes_around_numbers_are_no_part_of_them(monkeypatch):
    monkeypatch.setenv("MODEL_RUNNER_SLOTS", '"4"')
    monkeypatch.setenv("MODEL_RUNNER_CONTEXT_SIZE", "'1024'")
    monkeypatch.setenv("MODEL_RUNNER_KEEP_ALIVE", '"-1"')
    settings = load_settings()
    assert (settings.slots, settings.context_size, settings.keep_alive) == (4, 1024, -1)


def test_brackets_around_an_address_are_no_part_of_it():
    assert load_settings({"host": "[::1]"}).host == load_settings({"host": "::1"}).host == "::1"


def test_tilde_is_the_home_directory(file, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MODELS_PATH", "~/models")
    monkeypatch.setenv("MODEL_RUNNER_LOG_DIR", '"~/log s"')
    monkeypatch.setenv("MODEL_RUNNER_CONFIG", "~/config.toml")
    file.write_text('state_dir = "~/state"\nsocket = "/run/~x.sock"\n')
    settings = load_settings({"llama_server_path": Path("~/llama.cpp")})
    assert (settings.models_path, settings.engine_log_dir) == (
        tmp_path / "models",
        tmp_path / "log s",
    )
    assert (settings.state_dir, settings.socket) == (tmp_path / "state", Path("/run/~x.sock"))
    assert settings.llama_server_path == tmp_path / "llama.cpp"


def test_home_of_nobody_is_a_wrong_value(monkeypatch):
    monkeypatch.setenv("MODELS_PATH", "~nobody-of-that-name/models")
    with pytest.raises(InvalidRequest, match=r"`MODELS_PATH`: .*not `~nobody-of-that-name/models`"):
        load_settings()


def test_readme_names_settings_as_they_are():
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (?:`(--[\w-]+)` )?\|", readme, re.MULTILINE)
    assert len(rows) >= 10
    flags = {option.name: option.opts[0] for option in main.commands["serve"].params}
    for variable, key, flag in rows:
        assert Settings.model_fields[key].validation_alias == variable
        assert flag == flags.get(key, "")


@pytest.mark.parametrize(
    ("value", "meant"),
    [("on", "on"), ("OFF", "off"), ("1", "on"), ("false", "off"), (' "off" ', "off")],
)
def test_the_recorder_is_switched_by_any_usual_word(monkeypatch, value, meant):
    monkeypatch.setenv("MODEL_RUNNER_RECORDER", value)
    assert load_settings().recorder == meant


def test_a_switch_or_a_redaction_that_is_none_is_refused_and_not_taken_for_off(monkeypatch):
    for variable in ("MODEL_RUNNER_RECORDER", "MODEL_RUNNER_RECORD_REDACTION"):
        monkeypatch.setenv(variable, "promts")
        with pytest.raises(InvalidRequest, match=variable):
            load_settings()
        monkeypatch.setenv(variable, "off")
        load_settings()


def test_the_recorder_can_be_switched_in_the_file(file):
    file.write_text("recorder = false\nrecord_redaction = 'prompts'\n")
    settings = load_settings()
    assert (settings.recorder, settings.record_redaction) == ("off", "prompts")


@pytest.mark.parametrize(
    "origins",
    [
        "*",
        "null",
        "https://app.example.com, http://intranet:*,http://[fd00::1]:8080",
        "tauri://localhost,chrome-extension://abcdefgh",
        "chrome-extension://*,moz-extension://*",
        " , ",
    ],
)
def test_origins_that_browsers_send_may_be_allowed(monkeypatch, origins):
    monkeypatch.setenv("DMR_ORIGINS", origins)
    assert load_settings().origin_list == [
        part.strip() for part in origins.split(",") if part.strip()
    ]


@pytest.mark.parametrize(
    "origin",
    [
        "https://app.example.com/",
        "app.example.com",
        "https://App.Example.com",
        "https://*.example.com",
        "http://a http://b",
        "http://[x",
        "https://app.example.com:",
    ],
)
def test_an_origin_that_no_browser_sends_is_refused_and_not_ignored(monkeypatch, origin):
    monkeypatch.setenv("DMR_ORIGINS", f"http://localhost, {origin}")
    with pytest.raises(InvalidRequest, match="DMR_ORIGINS") as refused:
        load_settings()
    assert f"`DMR_ORIGINS`: `{origin}` is no origin" in str(refused.value)


@pytest.mark.parametrize(
    ("given", "registry"),
    [
        ("index.docker.io", "docker.io"),
        ("Reg.Corp:5000", "reg.corp:5000"),
        ("hf.co", "huggingface.co"),
    ],
)
def test_the_default_registry_is_called_as_in_references(monkeypatch, given, registry):
    monkeypatch.setenv("DEFAULT_REGISTRY", given)
    assert Settings().default_registry == registry


@pytest.mark.parametrize("given", ["https://ghcr.io", "ghcr.io/org", "ghcr"])
def test_a_default_registry_that_no_reference_could_have(monkeypatch, given):
    monkeypatch.setenv("DEFAULT_REGISTRY", given)
    with pytest.raises(ValueError, match="is no registry"):
        Settings()

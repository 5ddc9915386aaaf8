"""Files with passwords: who can read them is said where a configuration is checked, and in the log of a start."""

import json
from pathlib import Path

import pytest
from brokers import poold

from poold.config.file import load
from poold.config.permissions import exposed_files

SECRET = "opensesame"


def config(folder: Path, password: str) -> Path:
    file = folder / "poold.toml"
    file.write_text(f'[endpoints.main]\nhost = "h"\ndbname = "d"\nuser = "u"\n{password}\n[groups.default]\n')
    return file


@pytest.mark.parametrize(("mode", "is_exposed"), [(0o644, True), (0o604, True), (0o620, True), (0o600, False)])
@pytest.mark.parametrize("place", ["in the configuration", "in a file of its own"])
def test_a_password_that_others_can_read_is_told_without_it(
    tmp_path: Path, mode: int, is_exposed: bool, place: str
) -> None:
    secret = tmp_path / "password"
    secret.write_text(SECRET)
    is_own = place == "in a file of its own"
    file = config(tmp_path, f'password_file = "{secret}"' if is_own else f'password = "{SECRET}"')
    (file, secret)[is_own].chmod(mode)
    lines = exposed_files(load(file), file)
    assert len(lines) == is_exposed
    for line in lines:
        assert line.startswith(f"{secret if is_own else file} holds a password and has mode {mode:04o}, expected 06")
        assert SECRET not in line


def test_without_a_password_in_it_a_configuration_may_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_PASSWORD", SECRET)
    for password in ("", 'password_env = "THE_PASSWORD"'):
        file = config(tmp_path, password)
        file.chmod(0o644)
        assert exposed_files(load(file), file) == []


def test_check_config_warns_and_succeeds(tmp_path: Path) -> None:
    file = config(tmp_path, f'password = "{SECRET}"')
    file.chmod(0o644)
    text, as_json = poold("check-config", str(file)), poold("check-config", "--json", str(file))
    assert (text.returncode, as_json.returncode) == (0, 0)
    assert text.stderr.startswith(f"warning: {file} holds a password")
    assert [json.loads(as_json.stdout)["warnings"]] == [exposed_files(load(file), file)]
    assert SECRET not in text.stdout + text.stderr + as_json.stdout + as_json.stderr

"""`xpc-instrument certificates`: what it makes, and what it leaves alone."""

from __future__ import annotations

import datetime
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict

import pytest

from tests.integration.app_fixture import command
from xpc_instrument import cli
from xpc_instrument.cli import certificates as module
from xpc_instrument.core.config import file as config
from xpc_instrument.core.wire.tls import TLS

x509 = pytest.importorskip("cryptography.x509")


def certificates(*words: object) -> subprocess.CompletedProcess[str]:
    """Run the command, with a umask that hides nothing."""
    before = os.umask(0)
    try:
        return command("certificates", *map(str, words))
    finally:
        os.umask(before)


def contents(folder: Path) -> Dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_ca_and_a_folder_for_each_name_are_made_and_only_their_owner_can_read_them(tmp_path: Path) -> None:
    done = certificates(tmp_path / "fleet", "shop", "scripts")
    assert (done.returncode, done.stderr) == (0, "")
    files = sorted(contents(tmp_path / "fleet"))
    member = ["ca.pem", "certificate.pem", "key.pem"]
    assert files == ["ca.key", "ca.pem", *[f"scripts/{name}" for name in member], *[f"shop/{name}" for name in member]]
    for path in (tmp_path / "fleet", *(tmp_path / "fleet").rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    for name in ("shop", "scripts"):
        TLS.from_folder(tmp_path / "fleet" / name).load()
        assert (tmp_path / "fleet" / name / "ca.pem").read_bytes() == (tmp_path / "fleet" / "ca.pem").read_bytes()


def test_what_it_says_is_a_config_that_can_be_used(tmp_path: Path) -> None:
    done = certificates(tmp_path / "fleet", "shop", "scripts")
    table = re.search(r"\[manager\]\n(?:tls-.*\n){3}", done.stdout)
    assert table is not None
    found = config.parse(f'{table[0]}address = "tcp:0.0.0.0:80"\nauthkey-file = "k"\n')
    assert found.manager.tls_key == str(tmp_path / "fleet" / "shop" / "key.pem")
    assert f'TLS.from_folder("{tmp_path}/fleet/scripts")' in done.stdout


def test_what_exists_is_kept_and_with_force_the_ca_still_is(tmp_path: Path) -> None:
    fleet = tmp_path / "fleet"
    assert certificates(fleet, "shop").returncode == 0
    before = contents(fleet)
    done = certificates(fleet, "new", "shop")
    assert done.returncode == 7
    assert f"{fleet}/shop exists already" in done.stderr
    assert contents(fleet) == before
    assert certificates(fleet, "new").returncode == 0
    assert certificates(fleet, "--force", "shop").returncode == 0
    after = contents(fleet)
    assert {name for name in before if before[name] != after[name]} == {"shop/certificate.pem", "shop/key.pem"}
    TLS.from_folder(fleet / "shop").load()


def test_the_days_are_counted_and_none_outlive_the_ca(tmp_path: Path) -> None:
    assert certificates(tmp_path / "fleet", "shop", "--days", "30").returncode == 0
    found = x509.load_pem_x509_certificate((tmp_path / "fleet/shop/certificate.pem").read_bytes())
    left = found.not_valid_after_utc - datetime.datetime.now(datetime.timezone.utc)
    assert datetime.timedelta(days=29) < left <= datetime.timedelta(days=30)
    ca = x509.load_pem_x509_certificate((tmp_path / "fleet/ca.pem").read_bytes())
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_no_certificate_outlives_its_ca(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(module, "_CA_DAYS", 10)
    assert cli.main(["certificates", str(tmp_path / "fleet"), "shop", "--days", "9"]) == 0
    assert cli.main(["certificates", str(tmp_path / "fleet"), "late", "--days", "11"]) == 7
    assert "would outlive it: choose fewer --days" in capsys.readouterr().err
    assert not (tmp_path / "fleet/late").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["shop/../../x"], 2, "cannot name a member"),
        ([".hidden"], 2, "cannot name a member"),
        (["ca.key"], 2, "cannot name a member"),
        (["x" * 65], 2, "cannot name a member"),
        ([], 2, "required: NAME"),
        (["shop", "--days", "0"], 2, "expected a number of days"),
        (["shop", "--days", "99999"], 2, "expected a number of days"),
    ],
)
def test_wrong_words_are_told_and_nothing_is_made(tmp_path: Path, words: Any, code: int, message: str) -> None:
    done = certificates(tmp_path / "fleet", *words)
    assert done.returncode == code
    assert message in done.stderr
    assert not (tmp_path / "fleet").exists()


def test_half_a_ca_another_key_and_a_folder_open_to_others_are_refused(tmp_path: Path) -> None:
    fleet = tmp_path / "fleet"
    assert certificates(fleet, "shop").returncode == 0
    assert certificates(tmp_path / "other", "shop").returncode == 0
    key = (fleet / "ca.key").read_bytes()
    (fleet / "ca.key").unlink()
    done = certificates(fleet, "new")
    assert (done.returncode, "ca.key: no such file, beside ca.pem" in done.stderr) == (7, True)
    (fleet / "ca.key").write_bytes((tmp_path / "other/ca.key").read_bytes())
    (fleet / "ca.key").chmod(0o600)
    done = certificates(fleet, "new")
    assert (done.returncode, "is not the key to ca.pem" in done.stderr) == (7, True)
    (fleet / "ca.key").write_bytes(key)
    fleet.chmod(0o777)
    done = certificates(fleet, "new")
    assert (done.returncode, "other users can write there (mode 0777)" in done.stderr) == (7, True)
    fleet.chmod(0o700)
    assert certificates(fleet, "new").returncode == 0


def test_without_cryptography_the_extra_is_named(tmp_path: Path) -> None:
    (tmp_path / "cryptography.py").write_text("raise ImportError('not here')")
    words = [sys.executable, "-m", "xpc_instrument.cli", "certificates", str(tmp_path / "fleet"), "shop"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 7
    assert "pip install cryptography, or xpc-instrument with its extra tls" in done.stderr
    assert not (tmp_path / "fleet").exists()


@pytest.mark.parametrize("name", ["ca.key", "ca.pem"])
def test_a_ca_that_others_may_know_or_change_is_refused(tmp_path: Path, name: str) -> None:
    """The folder itself may be one that others can look into, and another user may have made it for us."""
    fleet = tmp_path / "fleet"
    certificates(fleet, "shop")
    fleet.chmod(0o755)
    (fleet / name).chmod(0o644 if name == "ca.key" else 0o622)
    before = contents(fleet)
    done = certificates(fleet, "scripts")
    assert (done.returncode, done.stdout) == (7, "")
    assert f"{fleet / name}: other users" in done.stderr
    assert contents(fleet) == before


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
@pytest.mark.parametrize("path", ["", "ca.key", "ca.pem", "shop"])
def test_what_another_user_has_put_there_is_refused(tmp_path: Path, path: str) -> None:
    fleet = tmp_path / "fleet"
    certificates(fleet, "shop")
    os.chown(fleet / path, 12345, 12345)
    done = certificates(fleet, "shop", "--force")
    assert (done.returncode, done.stdout) == (7, "")
    assert "belongs to uid 12345" in done.stderr

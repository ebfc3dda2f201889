# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""``fbclip check``, thresholds for a share of false alarms, and the command that learns from them."""

import json
import shutil
from pathlib import Path

import pytest

from anomalib_fbclip.__main__ import main
from support.parts import draw_part, fails, read_rows


@pytest.fixture(autouse=True)
def folder(photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The command is run beside good and defective photographs."""
    (tmp_path / "bad").mkdir()
    (tmp_path / "more").mkdir()
    (photographs / "good").rename(tmp_path / "good")
    for seed in (11, 12):
        draw_part(seed, defective=True).save(tmp_path / "bad" / f"{seed}.png")
        draw_part(seed + 10).save(tmp_path / "more" / f"{seed}.png")
    (tmp_path / "link").symlink_to("more")
    shutil.copy(tmp_path / "more" / "11.png", tmp_path / "copy.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def product() -> str:
    assert main(["teach", "good", "--output", "bolt.fbclip", "--rotations", "1"]) == 0
    return "bolt.fbclip"


def test_verdicts_are_counted(product: str, capsys: pytest.CaptureFixture) -> None:
    code = main(["check", "--product", product, "--good", "more", "--bad", "bad", "--threshold", "0"])
    head, counted, best = [line for line in capsys.readouterr().out.splitlines() if "  " in line and line[0] in " vf"]
    assert head.split() == ["threshold", "found", "missed", "false", "alarms"]
    assert counted.split() == ["verdicts", "0.000", "2", "of", "2", "0", "2", "of", "2"]
    assert best.split()[3:] == ["2", "of", "2", "0", "0", "of", "2"]
    assert code == 1, "two verdicts are wrong"
    assert [(Path(row["path"]).name, row["label"], row["verdict"]) for row in read_rows()] == [
        ("11.png", "normal", "anomalous"),
        ("12.png", "normal", "anomalous"),
        ("11.png", "anomalous", "anomalous"),
        ("12.png", "anomalous", "anomalous"),
    ]
    threshold = best.split()[2]
    assert main(["check", "--product", product, "--good", "more", "--bad", "bad", "--threshold", threshold]) == 0


def test_sides_are_told_apart_by_how_they_are_given() -> None:
    main(["check", "--good", "bad/../more", "--bad", "bad"])
    assert [row["label"] for row in read_rows()] == ["normal", "normal", "anomalous", "anomalous"]


def test_without_a_product_each_is_looked_at_alone(capsys: pytest.CaptureFixture) -> None:
    """Photographs whose truth is known are no references of each other."""
    for seed in range(8):
        draw_part(30 + seed).save(f"more/{seed}.png")
    assert main(["check", "--good", "more", "--bad", "bad"]) in {0, 1}
    assert {row["threshold_source"] for row in read_rows()} == {"default"}
    screen = capsys.readouterr().out
    assert "fewest wrong" in screen
    assert "Use --product." in screen


MISTAKES: dict[str, tuple[list[str], str]] = {
    "nothing": (["check"], "--good, --bad, or both"),
    "one folder twice": (["check", "--good", "more", "--bad", "more"], "overlap"),
    "one in the other": (["check", "--good", "more", "--bad", "more/11.png"], "overlap"),
    "one folder by two names": (["check", "--good", "more", "--bad", "link"], "overlap"),
    "one photograph twice": (["check", "--good", "more", "--bad", "copy.png"], "same photograph"),
    "shots": (["check", "--good", "more", "--shots", "2"], "give --product"),
    "share of no product": (["check", "--good", "more", "--max-false-alarms", "1%"], "give --product"),
    "no such folder": (["check", "--good", "nowhere"], "nowhere"),
    "no share": (["photographs", "--good", "good", "--max-false-alarms", "0"], "not a share"),
    "threshold and share": (
        ["photographs", "--good", "good", "--max-false-alarms", "1%", "--threshold", "0.4"],
        "leave out --threshold",
    ),
    "share of nothing": (["photographs", "--max-false-alarms", "1%"], "needs good photographs"),
    "share of one": (
        ["photographs", "--good", "good", "--shots", "1", "--max-false-alarms", "1%"],
        "2 good photographs",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake: str, capsys: pytest.CaptureFixture) -> None:
    arguments, message = MISTAKES[mistake]
    assert message in fails(capsys, *arguments)


def test_a_share_of_false_alarms(product: str, capsys: pytest.CaptureFixture) -> None:
    """The fewer false alarms, the higher the threshold; the same with photographs and with their product."""
    thresholds = []
    for share in ("30%", "1%"):
        said = []
        for source in (["--good", "good", "--rotations", "1"], ["--product", product]):
            capsys.readouterr()
            assert main(["photographs", *source, "--max-false-alarms", share]) in {0, 1}
            said.append([line for line in capsys.readouterr().out.splitlines() if line.startswith("Threshold")])
            (threshold,) = {row["threshold"] for row in read_rows()}
            assert {row["pixel_threshold"] for row in read_rows()} == {threshold}
        assert said[0] == said[1]
        assert f"Threshold {threshold:.3f}: about {share[:-1]} %" in said[0][0]
        thresholds.append(threshold)
    assert thresholds[0] < thresholds[1]


def test_the_report_gives_the_command_that_learns(product: str) -> None:
    for source, command in (
        (["--good", "good", "--rotations", "1"], "cp {photographs} good"),
        (["--product", product], "fbclip teach bolt.fbclip --add {photographs}"),
        ([], None),
    ):
        main(["photographs", *source])
        page = Path("fbclip-results/latest/report.html").read_text(encoding="utf-8")
        settings = json.loads(page.split('id="settings">')[1].split("</script>")[0])
        assert settings["feedback"] == command


def test_what_the_command_adds_is_learned(product: str) -> None:
    shutil.copy("photographs/spot.png", "alarm.png")
    assert main(["photographs/spot.png", "--product", product]) == 1
    assert main(["teach", product, "--add", "alarm.png"]) == 0
    assert main(["photographs/spot.png", "--product", product]) == 0

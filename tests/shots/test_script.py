"""Shot scripts: what a line may be, and what is said of those that may not."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest

from moga.shots import DEFAULT_SCRIPT, Shot, ShotList, ShotScriptError

ECHOSHOT = Path(__file__).resolve().parents[3] / "shared" / "data" / "echoshot_eval_en.json"


def message(text: str, fps: object = 16) -> str:
    with pytest.raises(ShotScriptError) as caught:
        ShotList.parse(text, fps)
    return str(caught.value)


# --- syntax --------------------------------------------------------------------------------------


def test_default_script():
    shots = ShotList.parse(DEFAULT_SCRIPT, 16)
    assert shots.frame_counts == (65, 40, 96)
    assert shots.latent_starts == (0, 17, 27)
    assert (shots.frames, shots.latent_frames) == (201, 51)
    assert shots.to_text() == DEFAULT_SCRIPT
    assert shots.texts[1] == (
        "A young woman in a red coat. Rainy neon city, 35mm film. "
        "Close-up. Her eyes catch the sign."
    )


def test_table_shows_asked_and_made():
    assert ShotList.parse(DEFAULT_SCRIPT, 16).table().split("\n") == [
        "shot  asked  frames  seconds    latent  start  caption",
        "   1     4s      65     4.06   [0, 17)   0.00  "
        "Wide shot. She crosses the street toward a dine…",
        "   2   2.5s      40     2.50  [17, 27)   4.06  Close-up. Her eyes catch the sign.",
        "   3    97f      96     6.00  [27, 51)   6.56  "
        "Inside. She sits at the counter; steam rises fr…",
        "3 shots, 201 frames, 12.56 s at 16 fps, 51 latent frames",
    ]


@pytest.mark.parametrize(
    ("inside", "seconds"),
    [
        *(
            (text, "4")
            for text in (
                *("4s", " 4 S ", "4 sec", "4secs", "4sec.", "4 second", "4seconds", "4 Seconds."),
                *(
                    "4.0s",
                    "4,0s",
                    "004s",
                    "\t4\xa0s",
                    "\uff14s",
                    "4\u79d2",
                    '4"',
                    "4000 ms",
                    "4000ms",
                ),
            )
        ),
        *((text, "60") for text in ("1m", "1 M", "1 min", "1 min.", "1 minute", "1mins", "60s")),
        *((text, "90") for text in ("1m30s", "1 min 30 sec.", "1M 30S", "1.5 minutes", "1,5m")),
        *((text, "0.5") for text in (".5s", "0.5s", "0,5s", "500ms", "500 milliseconds")),
        ("2 seconds.", "2"),
        ("2,5s", "2.5"),
        ("0,125s", "0.125"),
        ("1m2.5s", "62.5"),
        ("1s1ms", "1.001"),
        (f"0.{'0' * 30}1m", f"0.{'0' * 29}6"),
    ],
)
@pytest.mark.parametrize("brackets", ["[]", "\uff3b\uff3d", "\u3010\u3011"])
def test_spellings_of_seconds(inside, seconds, brackets):
    shots = ShotList.parse(f"{brackets[0]}{inside}{brackets[1]} a", 16)
    assert shots.shots == (Shot("a", seconds=Decimal(seconds)),)
    assert ShotList.parse(shots.to_text(), 16) == ShotList.parse(shots.to_json(), 16) == shots


@pytest.mark.parametrize("inside", ["97f", "97 FRAMES", "97 frame", "97fr.", "097 f", "97\u5e27"])
def test_spellings_of_frames(inside):
    assert ShotList.parse(f"[{inside}]a", 16).shots == (Shot("a", frames=97),)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_lines_comments_and_blanks(end, bom):
    lines = ["# made by hand", "", "  Global:  a coat,", "  red", "#", "[4s]", "", "Wide.", "# no"]
    lines += ["#neon sign", "[soft] light", "\t[1f] In.\tTab"]
    shots = ShotList.parse(bom + end.join(lines), 16)
    assert shots.global_caption == "a coat, red"
    assert [shot.caption for shot in shots.shots] == ["Wide. #neon sign [soft] light", "In.\tTab"]


@pytest.mark.parametrize(
    "caption",
    [
        "(rain:1.2) (neon)",
        "embedding:coat",
        "{a|b} {c|d}",
        "a \\(b\\) \\n",
        "\"x\" 'y'",
        "a  b",
        "\u4f60\u597d\uff0c\u4e16\u754c",
        "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f642",
        "a\u2028b\x85c\x0bd",
        "[wide] shot",
        "# 1",
        "global: x",
        "negative: x",
        "Shot 2: x",
        "[4] x",
        "style: y",
    ],
)
def test_captions_are_untouched(caption):
    for script in (f"[4s] {caption}", json.dumps([{"caption": caption, "seconds": 4}])):
        assert ShotList.parse(script, 16).texts == (caption,)


def test_a_negative_stands_once_in_either_form():
    text = "Negative: blurry,\n  dark\nglobal: a coat\n[5f] In."
    form = {"negative": "blurry,\n dark", "global": "a coat"}
    form["shots"] = [{"caption": "In.", "frames": 5}]
    for script in (text, json.dumps(form)):
        shots = ShotList.parse(script, 16)
        assert (shots.negative, shots.global_caption) == ("blurry, dark", "a coat")
        assert shots.texts == ("a coat In.",)
    assert ShotList.parse("[5f] In.", 16).negative == ""


def test_json_forms():
    shots = [{"caption": "a\n b", "seconds": 2.5}, {"frames": 97, "caption": "c\td"}]
    wanted = (Shot("a b", seconds=2.5), Shot("c\td", frames=97))
    assert ShotList.parse(json.dumps(shots), 16).shots == wanted
    whole = ShotList.parse(f"\ufeff\n {json.dumps({'global': 'g', 'shots': shots}, indent=1)}", 16)
    assert whole == ShotList(wanted, 16, "g")
    assert '"\u4f60\u597d", "seconds": 2.5' in ShotList.parse("[2.50s] \u4f60\u597d", 16).to_json()
    # Not valid in strict JSON, but as good as in the text form.
    assert ShotList.parse('[{"caption": "a\tb\r\nc", "frames": 1}]', 16).texts == ("a\tb c",)


def echoshot_sets() -> list[list[str]]:
    if not ECHOSHOT.is_file():
        pytest.skip(f"no {ECHOSHOT}: EchoShot's prompts come with the project's shared data")
    return json.loads(ECHOSHOT.read_text(encoding="utf-8"))


def test_echoshot_prompts():
    sets = echoshot_sets()
    assert len(sets) == 100
    for captions in sets:
        text = "".join(f"[{i + 2}.5s] {caption}\r\n" for i, caption in enumerate(captions))
        data = [{"caption": caption, "frames": 81} for caption in captions]
        for script in (text, json.dumps(data), json.dumps({"shots": data}, indent=2)):
            shots = ShotList.parse(script, 16)
            assert shots.texts == tuple(captions)
            assert ShotList.parse(shots.to_text(), 16) == shots
            assert ShotList.parse(shots.to_json(), 16) == shots


# --- bad input: the whole message, since it is all the user gets ---------------------------------

NO_SHOTS = "script has no shots; add a line such as: [4s] Wide shot. She crosses the street."
PLAIN = "write a plain number above 0 with s or f, such as [2.5s] or [97f]."
LASTS = "write how long the shot lasts, such as"
LABEL = (
    "begins no shot, a length in brackets does; write [4s] or [97f] in its place, or # and a space "
    "in front of it to make a comment."
)
INSIDE = "opens a shot only where a line begins; begin a line with it, or leave its brackets out."
NEGATIVE = "begin a line before the first shot with negative: and its text."
EARLY = (
    "stands before the first shot; begin the line with a duration such as [4s], "
    "or with global: for text that every shot shares."
)

BAD_TEXT = {
    "negative: a\nglobal: b\n\nnegative: c\n[5f] x": (
        "script line 4: negative: stands once, before the first shot; merge it with the one on "
        "line 1."
    ),
    "global: a\n[5f] x\nnegative: blurry": (
        "script line 3: negative: stands once, before the first shot; move it above the first "
        "shot (line 2)."
    ),
    "Negative:\n\n[5f] x": (
        "script line 1: negative: is empty; write its text or remove the line."
    ),
    "negative: a [2s] b\n[5f] x": f'script line 1: "[2s]" {INSIDE}',
    "- **Negative:** a\n[5f] x": (
        f'script line 1: "Negative:" is not part of a script; {NEGATIVE}'
    ),
    "[5f] x\n\nNegative Prompt\uff1a blurry": (
        f'script line 3: "Negative Prompt:" is not part of a script; {NEGATIVE}'
    ),
    "Seed: 5\n[5f] x": 'script line 1: "Seed:" is not part of a script; set it on the sampler.',
    "[5f] x\nfps: 24": 'script line 2: "fps:" is not part of a script; set fps beside the script.',
    "[5f] x\n- size: 832x480": (
        'script line 2: "size:" is not part of a script; set it on the node that makes the latent, '
        "on the command line give --size."
    ),
    "duration: 4": (
        'script line 1: "duration:" is not part of a script; write the length of each shot in '
        "brackets before its text, such as [4s] or [97f]."
    ),
    "**Global:** a\n[5f] x": (
        'script line 1: "Global:" is not part of a script; begin the line with global: and its '
        "text."
    ),
    "global: a\n[2s] b\nShot 2: c": f'script line 3: "Shot 2" {LABEL}',
    "[2s] b\n\n2) c": f'script line 3: "2" {LABEL}',
    "[2s] b\n(4s) c": (
        f'script line 2: "4s)" stands without square brackets; {LASTS} [4s] or [97f].'
    ),
    "[2s] b\nc. [4s] d": f'script line 2: "[4s]" {INSIDE}',
    "[2s] b [4s] d": f'script line 1: "[4s]" {INSIDE}',
    "[2s] b\n- [4s] d": f'script line 2: "[4s]" {INSIDE}',
    "[2s] b\nShot 2 (wide) [4s] d": f'script line 2: "[4s]" {INSIDE}',
    "[2s] b [4\ns] d": f'script line 1: caption: "[4 s]" {INSIDE}',
    "": NO_SHOTS,
    " \r\n\t": NO_SHOTS,
    "# only\n#\n": NO_SHOTS,
    "global: a": NO_SHOTS,
    "Wide shot.": f'script line 1: "Wide shot." {EARLY}',
    "\n#neon\n[4s] a": f'script line 2: "#neon" {EARLY}',
    "[wide] a": f'script line 1: "[wide] a" {EARLY}',
    "{}": f'script line 1: "{{}}" {EARLY}',
    "# c\nstyle: noir\n[4s] a": (
        'script line 2: unknown directive "style:"; only global: and negative: '
        "exist, so write one of them or move the text behind a duration such as [4s]."
    ),
    "global: a\nGlobal: b\n[4s] c": (
        "script line 2: global: stands once, before the first shot; "
        "merge it with the one on line 1."
    ),
    "\n[4s] a\nglobal: b": (
        "script line 3: global: stands once, before the first shot; "
        "move it above the first shot (line 2)."
    ),
    "global:\n[4s] a": "script line 1: global: is empty; write its text or remove the line.",
    "[4s] a\r\nb\r\n[4] c": (
        'script line 3: "[4]" has no unit; write [4s] for seconds or [4f] for frames.'
    ),
    "[4s] a\r[4 hours] b": (
        'script line 2: "[4 hours]" has an unknown unit "hours"; '
        "use s, ms, min or f, such as [2.5s] or [97f]."
    ),
    "[.5] a": 'script line 1: "[.5]" has no unit; write [0.5s] for seconds.',
    "[0] a": f'script line 1: "[0]" has no unit; {PLAIN}',
    "[0-4s] a": f'script line 1: "[0-4s]" is a span of time; {LASTS} [4s].',
    "[4 – 6.5 sec] a": f'script line 1: "[4 – 6.5 sec]" is a span of time; {LASTS} [2.5s].',
    "[0:58-1:02] a": f'script line 1: "[0:58-1:02]" is a span of time; {LASTS} [4s].',
    "[0-97f] a": f'script line 1: "[0-97f]" is a span of time; {LASTS} [4s].',
    "[1:30] a": f'script line 1: "[1:30]" is a time; {LASTS} [90s].',
    "[0:00] a": f'script line 1: "[0:00]" is a time; {LASTS} [4s].',
    "[1,500ms] a": f'script line 1: "[1,500ms]" has a comma that may mean two things; {PLAIN}',
    "[1,500f] a": f'script line 1: "[1,500f]" has a comma that may mean two things; {PLAIN}',
    "[4s 10f] a": f'script line 1: "[4s 10f]" is not a duration; {PLAIN}',
    "[1m.30s] a": f'script line 1: "[1m.30s]" is not a duration; {PLAIN}',
    "[30s 1m] a": f'script line 1: "[30s 1m]" is not a duration; {PLAIN}',
    "[~4s] a": f'script line 1: "[~4s]" has a sign; {PLAIN}',
    "[-1s] a": f'script line 1: "[-1s]" has a sign; {PLAIN}',
    "[ +4s ] a": f'script line 1: "[+4s]" has a sign; {PLAIN}',
    "[1e3s] a": f'script line 1: "[1e3s]" is not a duration; {PLAIN}',
    "[4s Wide": 'script line 1: "[4s Wide" has no closing bracket; write [4s] or [97f].',
    "[0s] a": "script line 1: seconds is 0; give a number above 0.",
    "[4s] a\n[0.0s] b": "script line 2: seconds is 0.0; give a number above 0.",
    "[0f] a": "script line 1: frames is 0; give a number above 0.",
    "[2.5f] a": ("script line 1: frames is 2.5; give a whole number, or the duration in seconds."),
    "[1000001f] a": "script line 1: frames is 1000001, more than 1000000; shorten the shot.",
    "[62501s] a": (
        "script line 1: 62501s at 16 fps is more than 1000000 frames; shorten the shot."
    ),
    "[600000f] a\n[600000f] b": (
        "script makes 1200001 frames, more than 1000000; shorten the shots or use fewer."
    ),
    f"[{'9' * 50}s] a": (
        f"script line 1: seconds is {'9' * 39}…; give a finite number of at most 40 decimals."
    ),
    "[4s] a\n[4s]\n# b\n": "script line 2: caption is empty; write what the shot shows.",
    "[4s] a\ud83d": (
        "script line 1: caption holds half a character (U+D83D), which no text encoder can read; "
        "remove it."
    ),
}


@pytest.mark.parametrize("script", BAD_TEXT, ids=ascii)
def test_bad_text(script):
    assert message(script) == BAD_TEXT[script]


SYNTAX = "check the quotes, commas and brackets there."

BAD_JSON = {
    '{"shots": []}': NO_SHOTS,
    '{"global": "a"}': NO_SHOTS,
    '{"shot": []}': 'script: unknown key "shot"; did you mean "shots"?',
    '{"caption": "a", "seconds": 4}': 'script: unknown key "caption"; use global, negative, shots.',
    '{"shots": {"a": 1}}': "script: shots is an object; give a list of shots.",
    '{"shots": 5}': "script: shots is 5; give a list of shots.",
    '{"shots": [], "shots": []}': 'script: key "shots" stands twice; keep one.',
    '{"negative": "a", "shots": []}': NO_SHOTS,
    '{"negative": 5, "shots": [{"caption": "a", "frames": 4}]}': (
        "negative is 5; give a text in quotes."
    ),
    '{"Negative Prompt": "a"}': (
        'script: unknown key "Negative Prompt"; write "negative" once, beside "shots".'
    ),
    '{"Seed": 5, "shots": []}': 'script: unknown key "Seed"; set it on the sampler.',
    '{"Global": "a"}': 'script: unknown key "Global"; write "global".',
    '[{"caption": "a", "duration": 4}]': (
        'script shot 1: unknown key "duration"; give each shot seconds or frames.'
    ),
    '{"seconds": 4}': 'script: unknown key "seconds"; give each shot seconds or frames.',
    '[{"caption": "a", "seconds": 4, "negative_prompt": "b"}]': (
        'script shot 1: unknown key "negative_prompt"; write "negative" once, beside "shots".'
    ),
    '[{"caption": "a [4s] b", "seconds": 4}]': f'script shot 1: caption: "[4s]" {INSIDE}',
    '[{"captoin": "a"}]': 'script shot 1: unknown key "captoin"; did you mean "caption"?',
    '[{"zzz": "a"}]': 'script shot 1: unknown key "zzz"; use caption, seconds, frames.',
    '[{"caption": "a", "caption": "b", "seconds": 4}]': (
        'script shot 1: key "caption" stands twice; keep one.'
    ),
    '[{"caption": "a", "seconds": 4}, "b"]': (
        'script shot 2: this is "b"; write {"caption": "...", "seconds": 4}.'
    ),
    '[{"seconds": 4}]': (
        'script shot 1: caption is missing; add "caption": "what the shot shows".'
    ),
    '[{"caption": " \\n", "seconds": 4}]': (
        "script shot 1: caption is empty; write what the shot shows."
    ),
    '[{"caption": 5, "seconds": 4}]': "script shot 1: caption is 5; give a text in quotes.",
    '{"global": [], "shots": [{"caption": "a", "frames": 4}]}': (
        "global caption is a list; give a text in quotes."
    ),
    '[{"caption": "a"}]': (
        "script shot 1: duration is given as neither seconds nor frames; "
        "add one of seconds and frames."
    ),
    '[{"caption": "a", "seconds": 4, "frames": 4}]': (
        "script shot 1: duration is given as both; keep one of seconds and frames."
    ),
    '[{"caption": "a", "seconds": null, "frames": 4}]': (
        "script shot 1: seconds is null; give it a value or leave the key out."
    ),
    '[{"caption": "a", "seconds": "4"}]': (
        'script shot 1: seconds is "4"; give a number, without quotes.'
    ),
    '[{"caption": "a", "frames": true}]': (
        "script shot 1: frames is true; give a number, without quotes."
    ),
    '[{"caption": "a", "frames": -4}]': "script shot 1: frames is -4; give a number above 0.",
    '[{"caption": "a", "frames": 4.5}]': (
        "script shot 1: frames is 4.5; give a whole number, or the duration in seconds."
    ),
    '[{"caption": "a", "seconds": NaN}]': (
        "script shot 1: seconds is NaN; give a finite number of at most 40 decimals."
    ),
    '[{"caption": "a", "seconds": -Infinity}]': (
        "script shot 1: seconds is -Infinity; give a finite number of at most 40 decimals."
    ),
    '[{"caption": "a", "seconds": 1e999999999}]': (
        "script shot 1: seconds is 1E+999999999; give a finite number of at most 40 decimals."
    ),
    '[{"caption": "a",\r\n  "seconds" 4}]': (
        f"script line 2, column 13: not valid JSON (expecting ':' delimiter); {SYNTAX}"
    ),
    '\ufeff\r\r{"shots": [{"caption": "a", "seconds": 4}]} b': (
        f"script line 3, column 45: not valid JSON (extra data); {SYNTAX}"
    ),
    '[{"a": ' * 100_000: (
        "script: JSON is nested too deeply; give a list of shots, or an object that holds one."
    ),
}


@pytest.mark.parametrize("script", BAD_JSON, ids=lambda script: ascii(script[:60]))
def test_bad_json(script):
    assert message(script) == BAD_JSON[script]


@pytest.mark.parametrize(
    ("fps", "shown"),
    [
        (0, "0"),
        (-16, "-16"),
        (1001, "1001"),
        (10**5000, f"1{'0' * 38}…"),
        (Fraction(-1, 3), "-1/3"),
        (math.nan, "nan"),
        (math.inf, "inf"),
        ("fast", '"fast"'),
        ("1/0", '"1/0"'),
        ("1e999999999", '"1e999999999"'),
        (True, "true"),
        (None, "null"),
        ([16], "a list"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_fps(fps, shown):
    sentence = f"fps is {shown}; give frames per second from 0.001 to 1000, such as 16."
    assert message("[4s] a", fps) == sentence


@pytest.mark.parametrize("seconds", [Fraction(1, 3), Fraction(1, 2**60), 1e-300])
def test_seconds_that_no_script_can_say(seconds):
    with pytest.raises(ShotScriptError, match=r"^seconds is .+; give a finite number"):
        Shot("a", seconds=seconds)

"""Files are told apart by all that they hold, and are read once."""

import json
import os
import shutil
from itertools import combinations

import pytest
from safetensors.torch import load_file, save_file
from training_runs import log, refused, train

from moga.train.cache.spec import VAE_PARTS
from moga.train.checkpoints import PROGRESS
from moga.train.contents import MEMORY, Contents, digest_of


@pytest.fixture
def contents(tmp_path):
    """Digests that are remembered nowhere."""
    return Contents(tmp_path / "none" / MEMORY)


@pytest.fixture
def counted(monkeypatch):
    """The files that are read, in a list."""
    from moga.train import contents

    read, real = [], contents.digest_of
    monkeypatch.setattr(contents, "digest_of", lambda path: (read.append(path.name), real(path))[1])
    return read


def written_alike(tensors, path, like):
    """Write tensors over a file, in the same place, its size and times as before."""
    before = path.stat()
    save_file(tensors, like)
    with path.open("r+b") as file:
        file.write(like.read_bytes())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (
        before.st_size, before.st_mtime_ns, before.st_ino
    )  # fmt: skip


def test_every_tensor_counts(files, tmp_path, contents):
    """Zeroing any one changes the digest, and so does exchanging any two that fit each other."""
    tensors, path = load_file(files / "vae.safetensors"), tmp_path / "vae.safetensors"
    save_file(tensors, path)
    digests = {contents.of_model(path, *VAE_PARTS)}
    data, changes = path.read_bytes(), 0
    header = int.from_bytes(data[:8], "little")
    places = {
        name: slice(*(8 + header + at for at in entry["data_offsets"]))
        for name, entry in json.loads(data[8 : 8 + header]).items()
    }

    def judge(changed):
        nonlocal changes
        path.write_bytes(changed)
        digests.add(contents.of_model(path, *VAE_PARTS))
        changes += 1

    assert len(places) > 100
    for place in places.values():
        if any(data[place]):
            changed = bytearray(data)
            changed[place] = bytes(place.stop - place.start)
            judge(changed)
    large = [p for p in places.values() if p.stop - p.start > 4096]
    for one, other in combinations(large[:20], 2):
        if one.stop - one.start == other.stop - other.start and data[one] != data[other]:
            changed = bytearray(data)
            changed[one], changed[other] = data[other], data[one]
            judge(changed)
    assert changes > 100 and len(digests) == changes + 1


def test_large_files_are_read_to_their_end(tmp_path, monkeypatch):
    """In parts, by several threads."""
    from moga.train import contents

    monkeypatch.setattr(contents, "_CHUNK", 1000)
    monkeypatch.setattr(contents, "_READ", 300)
    path, data = tmp_path / "a", bytearray(os.urandom(4321))
    path.write_bytes(data)
    digests = {digest_of(path)}
    for at in range(0, len(data), 7):
        data[at] ^= 1
        path.write_bytes(data)
        digests.add(digest_of(path))
        data[at] ^= 1
    path.write_bytes(data[:-1])
    digests.add(digest_of(path))
    path.write_bytes(data[1000:2000] + data[:1000] + data[2000:])
    digests.add(digest_of(path))
    assert len(digests) == len(range(0, len(data), 7)) + 3


def test_a_folder_is_its_parts(files, tmp_path, contents):
    pipe = tmp_path / "pipe"
    for part in ("vae", "transformer"):
        (pipe / part).mkdir(parents=True)
        shutil.copy(files / "vae.safetensors", pipe / part / "model.safetensors")
    before = contents.of_model(pipe, "vae")
    (pipe / "transformer" / "model.safetensors").write_bytes(b"")
    assert contents.of_model(pipe, "vae") == before
    shutil.copytree(pipe, tmp_path / "moved")
    assert contents.of_model(tmp_path / "moved", "vae") == before
    (pipe / "vae" / "model.safetensors").rename(pipe / "vae" / "other.safetensors")
    assert contents.of_model(pipe, "vae") != before


def test_a_file_is_read_once_until_it_changes(files, tmp_path, counted):
    path = tmp_path / "vae.safetensors"
    tensors = load_file(files / "vae.safetensors")
    save_file(tensors, path)
    first = Contents(tmp_path / MEMORY)
    digest = first.of(path)
    first.save()
    assert Contents(tmp_path / MEMORY).of(path) == digest and counted == [path.name]
    tensors["encoder.conv_in.bias"] += 1
    written_alike(tensors, path, tmp_path / "like")
    assert Contents(tmp_path / MEMORY).of(path) != digest and len(counted) == 2


def test_a_memory_that_was_damaged_is_none(files, tmp_path, counted):
    path = files / "vae.safetensors"
    memory = Contents(tmp_path / MEMORY)
    digest = memory.of(path)
    memory.save()
    line = (tmp_path / MEMORY).read_text()
    for text in (line[:-10], "[1, 2]\n{}\n7\n" + line, "\udcff" + line, "", line.replace("/", "?")):
        (tmp_path / MEMORY).write_bytes(text.encode("utf-8", "surrogateescape"))
        assert Contents(tmp_path / MEMORY).of(path) == digest
    assert len(counted) == 5  # the second alone still knew


def other_vae(project):
    return "vae.safetensors", lambda t: t["encoder.conv_in.bias"].add_(1)


def other_encoder(project):
    return "umt5.safetensors", lambda t: t["shared.weight"].add_(1)


def other_model(project):
    return "wan.safetensors", lambda t: t["blocks.1.ffn.2.bias"].add_(1)


NAMES = {
    "vae.safetensors": "contents of data.vae",
    "umt5.safetensors": "contents of data.text_encoder",
    "wan.safetensors": "contents of model.file",
}


@pytest.mark.parametrize("change", [other_vae, other_encoder, other_model])
def test_another_model_in_the_same_place_does_not_go_on(project, trained, capsys, change):
    name, alter = change(project)
    for part in ("training", "cache"):
        shutil.copytree(trained / part, project / part)
    tensors = load_file(project / name)
    (project / name).unlink()
    save_file(tensors, project / name)
    assert NAMES[name] not in refused(project, capsys, "--stages.1.lr", "5", "--check")
    alter(tensors)
    written_alike(tensors, project / name, project / "like")
    for words in ((), ("--check",)):
        said = refused(project, capsys, *words)
        assert f"holds a training with {NAMES[name]} = " in said and "another save.folder" in said


def test_another_clip_in_the_same_place_does_not_go_on(project, trained, make, capsys):
    for part in ("training", "cache"):
        shutil.copytree(trained / part, project / part)
    clip = project / "0.mp4"
    size, times = clip.stat().st_size, clip.stat()
    clip.unlink()
    make.mp4(clip, make.square(1, seed=7).repeat(17, 0))
    data = clip.read_bytes()
    assert len(data) <= size
    # What is left of its size is an atom that says nothing.
    gap = size - len(data)
    clip.write_bytes(data + (gap.to_bytes(4, "big") + b"free" + bytes(gap - 8) if gap else b""))
    os.utime(clip, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert clip.stat().st_size == size
    assert "clips of data.rows = 3 (" in refused(project, capsys)


def test_a_cache_of_another_vae_is_told_of_and_made_again(project, trained, capsys):
    shutil.copytree(trained / "cache", project / "cache")
    tensors = load_file(project / "vae.safetensors")
    tensors["encoder.conv_in.bias"] += 1
    (project / "vae.safetensors").unlink()
    save_file(tensors, project / "vae.safetensors")
    assert train(project, "--cache-only") == 0
    said = capsys.readouterr().out
    held = len(list((trained / "cache" / "latents").iterdir()))
    assert f"holds {held} latents, and none is of these clips by this VAE, size" in said
    assert "texts, and none" not in said
    assert len(list((project / "cache" / "latents").iterdir())) == 2 * held
    assert train(project, "--cache-only") == 0
    assert "none is of these clips" not in capsys.readouterr().out


def test_clips_may_move_and_be_touched(project, trained, capsys):
    shutil.copytree(trained / "cache", project / "cache")
    before = {path.name for path in (project / "cache" / "latents").iterdir()}
    clip = (project / "0.mp4").resolve().read_bytes()
    (project / "0.mp4").unlink()
    (project / "0.mp4").write_bytes(clip)
    assert train(project, "--cache-only") == 0
    assert {path.name for path in (project / "cache" / "latents").iterdir()} == before


def test_a_training_of_an_older_version_goes_on_and_says_what_it_trusts(project, trained, capsys):
    for part in ("training", "cache"):
        shutil.copytree(trained / part, project / part)
    for path in (project / "training" / "checkpoints").glob("*/" + PROGRESS):
        about = json.loads(path.read_text())
        del about["files"]
        bound = about["settings"]
        bound["clips of data.rows"], bound["contents of model.file"] = "3 (abc)", "123"
        del bound["contents of data.vae"], bound["contents of data.text_encoder"]
        path.write_text(json.dumps(about))
    assert train(project, "--stages.1.steps", "7") == 0
    assert "is of an older version, which did not note" in capsys.readouterr().out
    assert [row["step"] for row in log(project) if "loss" in row][-1] == 7
    assert train(project, "--stages.1.steps", "7") == 0
    assert "older version" not in capsys.readouterr().out

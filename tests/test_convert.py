"""Convert: the values of dequantize-then-load, whole or absent after any kill, never over something else."""

import errno
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, DeepseekV3ForCausalLM

from distill.checkpoints import Lineage, read_lineage, save_checkpoint
from distill.errors import UserError
from distill.problems.vocabulary import mini_tokenizer
from distill.runs import hold
from teacher import shard_writer
from teacher.convert import convert, parse_size
from teacher.loader import load_teacher, read_model
from tests.teacher_folders import INDEX, WEIGHTS, by_hand, edit_config, fp8_folder, make, split


@pytest.fixture
def source(tmp_path) -> Path:
    folder = fp8_folder(tmp_path / "fp8")
    mini_tokenizer().save_pretrained(folder)
    return folder


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def assert_same(state, other) -> None:
    assert state.keys() == other.keys()
    for name, tensor in state.items():
        assert tensor.dtype == other[name].dtype, name
        assert torch.equal(tensor, other[name]), name


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(("to", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
@pytest.mark.parametrize("shard_size", ["5GB", "100KB", "1KB"])
def test_a_converted_folder_holds_the_dequantized_values_bit_for_bit(source, tmp_path, to, dtype, shard_size):
    convert(source, tmp_path / "out", to=to, shard_size=shard_size)
    assert_same(by_hand(load_file(source / WEIGHTS), dtype), tensors(tmp_path / "out"))
    name = str(dtype).removeprefix("torch.")
    assert_same(read_model(source, name).state_dict(), read_model(tmp_path / "out", name).state_dict())


@pytest.mark.parametrize(("scale_fmt", "packed"), [("ue8m0", False), ("ue8m0", True)])
def test_powers_of_two_convert_too(tmp_path, scale_fmt, packed):
    source = fp8_folder(tmp_path / "fp8", scale_fmt, packed)
    convert(source, tmp_path / "out")
    assert_same(by_hand(load_file(source / WEIGHTS), torch.bfloat16), tensors(tmp_path / "out"))


def test_a_converted_folder_opens_in_transformers(source, tmp_path):
    convert(source, tmp_path / "out", shard_size="100KB")
    peer, loading = DeepseekV3ForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(loading.values())
    assert peer.dtype == torch.bfloat16
    assert_same(read_model(tmp_path / "out", "bfloat16").state_dict(), peer.state_dict())
    assert AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab() == mini_tokenizer().get_vocab()


def test_shards_stay_below_the_limit_and_the_index_counts_them(source, tmp_path):
    report = convert(source, tmp_path / "out", shard_size="100KB")
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(files) == report.counts["files"] > 3
    assert files[0].name == f"model-00001-of-{len(files):05}.safetensors"
    held = {path.name: load_file(path) for path in files}
    sizes = {name: sum(tensor.nbytes for tensor in file.values()) for name, file in held.items()}
    assert all(size <= 100_000 or len(held[name]) == 1 for name, size in sizes.items())
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(sizes.values())
    assert index["weight_map"] == {tensor: name for name, file in held.items() for tensor in file}


def test_one_file_needs_no_index(source, tmp_path):
    convert(source, tmp_path / "out")
    assert not (tmp_path / "out" / INDEX).exists()
    assert (tmp_path / "out" / WEIGHTS).is_file()


def test_what_describes_the_folder_comes_along_and_code_does_not(source, tmp_path):
    edit_config(source, auto_map={"AutoConfig": "configuration_evil.Evil"}, torch_dtype="bfloat16", dtype=None)
    (source / "configuration_evil.py").write_text("raise SystemExit('run')")
    (source / "LICENSE").write_text("free")
    (source / "pytorch_model.bin").write_bytes(b"\x80")
    (source / "notes").mkdir()
    convert(source, tmp_path / "out")
    names = set(contents(tmp_path / "out"))
    assert {"LICENSE", "tokenizer.json", "tokenizer_config.json", "lineage.json", "SHA256SUMS"} <= names
    assert not names & {"configuration_evil.py", "pytorch_model.bin", "notes", ".run.json"}
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["torch_dtype"] == "bfloat16"
    assert not {"quantization_config", "auto_map", "dtype"} & config.keys()
    lineage = read_lineage(tmp_path / "out")
    assert (lineage.name, lineage.stage, lineage.parent) == ("out", "convert", Lineage(name="fp8", stage="published"))
    assert load_teacher(tmp_path / "out", "bfloat16").tokenizer.get_vocab() == mini_tokenizer().get_vocab()


def test_the_lineage_of_a_folder_of_ours_goes_on(tmp_path):
    (tmp_path / "ours").mkdir()
    before = Lineage(name="ours", stage="sft")
    save_checkpoint(make(), mini_tokenizer(), tmp_path / "ours", before)
    convert(tmp_path / "ours", tmp_path / "out")
    assert read_lineage(tmp_path / "out").parent == before


def test_float32_converts_and_the_correction_bias_stays(tmp_path):
    model = make()
    model.save_pretrained(tmp_path / "wide")
    convert(tmp_path / "wide", tmp_path / "out", shard_size="200KB")
    written = tensors(tmp_path / "out")
    bias = "model.layers.1.mlp.gate.e_score_correction_bias"
    assert torch.equal(written[bias], model.state_dict()[bias])
    assert {tensor.dtype for name, tensor in written.items() if name != bias} == {torch.bfloat16}


def test_files_of_the_source_do_not_matter_to_the_result(source, tmp_path):
    convert(source, tmp_path / "one")
    split(source, lambda name: hash(name) % 5)
    convert(source, tmp_path / "many")
    assert_same(tensors(tmp_path / "one"), tensors(tmp_path / "many"))


def test_hashes_are_those_of_the_files(source, tmp_path):
    convert(source, tmp_path / "out", shard_size="100KB")
    lines = (tmp_path / "out" / "SHA256SUMS").read_text().splitlines()
    assert lines == [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}"
        for path in sorted((tmp_path / "out").glob("*.safetensors"))
    ]


# Kills


def test_kills_at_every_durable_step_and_at_random_end_in_the_same_bytes():
    script = [sys.executable, "-m", "tests.convert_kills", "3", "17"]
    done = subprocess.run(script, capture_output=True, text=True, check=False, cwd=Path(__file__).parent.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d kills at durable steps, 3 at random in \d+ conversions: 0 folders wrong", done.stdout)


def kept_shards(source, out, monkeypatch) -> list[str]:
    """Convert; the shards that were written this time."""
    written = []
    write = shard_writer.write_shard

    def noted(path, *args):
        written.append(path.name)
        return write(path, *args)

    monkeypatch.setattr("teacher.convert.write_shard", noted)
    convert(source, out, shard_size="200KB")
    return written


def stop_after(source, out, shards: int, monkeypatch) -> None:
    """Convert that many shards and fail in the next."""
    write, count = shard_writer.write_shard, iter(range(100))

    def failing(path, *args):
        if next(count) == shards:
            raise KeyboardInterrupt
        return write(path, *args)

    with monkeypatch.context() as patch:
        patch.setattr("teacher.convert.write_shard", failing)
        with pytest.raises(KeyboardInterrupt):
            convert(source, out, shard_size="200KB")


def test_finished_shards_are_kept(source, tmp_path, monkeypatch):
    stop_after(source, tmp_path / "out", 2, monkeypatch)
    written = kept_shards(source, tmp_path / "out", monkeypatch)
    assert written
    assert not {name for name in written if name.startswith(("model-00001", "model-00002"))}


def test_a_finished_shard_that_changed_is_written_again(source, tmp_path, monkeypatch):
    stop_after(source, tmp_path / "out", 2, monkeypatch)
    (shard,) = (tmp_path / "out.partial").glob("model-00002*")
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    assert shard.name in kept_shards(source, tmp_path / "out", monkeypatch)
    assert_same(by_hand(load_file(source / WEIGHTS), torch.bfloat16), tensors(tmp_path / "out"))


def test_another_source_or_setting_does_not_continue_a_partial_folder(source, tmp_path, monkeypatch):
    stop_after(source, tmp_path / "out", 2, monkeypatch)
    convert(source, tmp_path / "out", to="fp32", shard_size="200KB")
    assert_same(by_hand(load_file(source / WEIGHTS), torch.float32), tensors(tmp_path / "out"))
    assert len(list(tmp_path.glob("out.*"))) == 1  # set aside, not deleted


# Refusals


@pytest.mark.parametrize("what", ["folder", "file", "broken link"])
def test_nothing_is_overwritten(source, tmp_path, what):
    out = tmp_path / "out"
    {"folder": out.mkdir, "file": out.touch, "broken link": lambda: out.symlink_to("nowhere")}[what]()
    with pytest.raises(UserError, match=rf"^{out}: is there already"):
        convert(source, out)
    with pytest.raises(UserError, match="is there already"):
        convert(source, source)


def test_two_conversions_into_one_folder_are_refused(source, tmp_path):
    with hold(tmp_path / "out"), pytest.raises(UserError, match="held by"):
        convert(source, tmp_path / "out")


def test_a_full_disk_is_said_before_anything_is_written(source, tmp_path, monkeypatch):
    free = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: free)
    with pytest.raises(UserError, match=r"1.3 MB still to write, 0.0 MB free"):
        convert(source, tmp_path / "out")


def test_what_a_full_disk_left_makes_room_for_what_replaces_it(source, tmp_path, monkeypatch):
    """A shard stood there whole, its hash did not fit any more, and the next start wanted its room a second time."""
    out, partial = tmp_path / "out", tmp_path / "out.partial"

    def full(folder, sums):
        (folder / f"{WEIGHTS}.tmp").touch()
        raise OSError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as patch:
        patch.setattr("teacher.convert.note_sums", full)
        with pytest.raises(OSError, match="no space left"):
            convert(source, out)
    assert (partial / WEIGHTS).exists()
    seen = []

    def usage(path):
        seen.extend(name for name in contents(partial) if name.startswith(WEIGHTS))
        return type("Usage", (), {"free": 2 * 10**6})

    monkeypatch.setattr("shutil.disk_usage", usage)
    convert(source, out)
    assert seen == []


@pytest.mark.parametrize(("text", "size"), [("5GB", 5 * 10**9), ("1.5MB", 1_500_000), ("200KB", 200_000)])
def test_sizes_are_read(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "5", "5 GB", "-1GB", "0GB", "1e9GB", "5TB", "nanGB"])
def test_other_sizes_are_refused(text):
    with pytest.raises(UserError, match="--shard-size"):
        parse_size(text)


def test_another_dtype_is_refused(source, tmp_path):
    with pytest.raises(UserError, match="--to fp8: unknown; there are bf16, fp32"):
        convert(source, tmp_path / "out", to="fp8")

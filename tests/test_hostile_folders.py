# ruff: noqa: E501 - a case a line
"""Folders that lie, by accident or on purpose: one line naming the file, under a second, in little memory, no code run.

Every case starts from a good FP8 folder and breaks one thing. It is tried as `distill teacher convert`
and as a load; docs/teacher.md says what transformers does with the same folders.
"""

import io
import json
import os
import pickle
import shutil
import struct
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cli.main import main
from distill.errors import UserError
from distill.problems.vocabulary import mini_tokenizer
from teacher.loader import load_teacher
from tests.teacher_folders import FP8, INDEX, WEIGHTS, edit_config, fp8_folder, split

SECONDS = 1.0
GROWTH = 200 * 2**20
"""Bytes a refusal may need at its peak."""
NORM = "model.norm.weight"
DOWN = "model.layers.1.mlp.experts.3.down_proj.weight"
EVIL = "import pathlib; pathlib.Path('ran').touch()"


class Ran:
    """Touches a file when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


def replace_weights(folder: Path, name: str, data: bytes) -> None:
    (folder / WEIGHTS).unlink()
    (folder / name).write_bytes(data)


def zipped_pickle(folder: Path) -> None:
    torch.save({"x": Ran()}, folder / WEIGHTS)


def header(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Rewrite the header of the weight file, its data left as it is."""
    data = (folder / WEIGHTS).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    entries = json.loads(data[8 : 8 + length])
    changed = change(entries)
    text = (changed if isinstance(changed, str) else json.dumps(entries)).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def entry(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: header(folder, lambda entries: entries[NORM].update(changes))


def shift(begin: int, end: int) -> Callable[[Path], None]:
    """Move one tensor's bytes."""

    def change(entries: dict[str, Any]) -> None:
        first, last = entries[NORM]["data_offsets"]
        entries[NORM]["data_offsets"] = [first + begin, last + end]

    return lambda folder: header(folder, change)


def beyond(folder: Path) -> None:
    def change(entries: dict[str, Any]) -> None:
        first = min(
            (found for name, found in entries.items() if name != "__metadata__"), key=lambda x: x["data_offsets"]
        )
        first.update(dtype="F32", shape=[10**9], data_offsets=[0, 4 * 10**9])

    header(folder, change)


def twice(folder: Path) -> None:
    def change(entries: dict[str, Any]) -> str:
        text = json.dumps(entries)
        return text[:-1] + f', "{NORM}": {json.dumps(entries[NORM])}}}'

    header(folder, change)


def tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        held = load_file(folder / WEIGHTS)
        change(held)
        save_file(held, folder / WEIGHTS)

    return edit


def put(name: str, value: float | torch.Tensor) -> Callable[[Path], None]:
    """One number of a tensor replaced."""

    def change(held: dict[str, torch.Tensor]) -> None:
        held[name].reshape(-1)[5 % held[name].numel()] = value

    return tensors(change)


def index(name: Any) -> Callable[[Path], None]:
    return lambda folder: (folder / INDEX).write_text(json.dumps({"weight_map": {NORM: name}}))  # type: ignore[return-value]


def sharded(change: Callable[[Path, dict[str, str]], None]) -> Callable[[Path], None]:
    """Two files and an index, which `change` breaks."""

    def edit(folder: Path) -> None:
        split(folder, lambda name: int(".layers.1." in name))
        weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
        change(folder, weight_map)
        (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))

    return edit


def beside(folder: Path, weight_map: dict[str, str]) -> None:
    save_file({NORM: torch.ones(160)}, folder / WEIGHTS)


def again(folder: Path, weight_map: dict[str, str]) -> None:
    held = load_file(folder / "model-00001.safetensors")
    save_file({**held, NORM: torch.ones(160)}, folder / "model-00001.safetensors")


def linked_out(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder.parent / "outside.safetensors")
    (folder / WEIGHTS).symlink_to("../outside.safetensors")


def directory(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).mkdir()


def pipe(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    os.mkfifo(folder / WEIGHTS)


def write(name: str, text: str | bytes) -> Callable[[Path], None]:
    data = text.encode() if isinstance(text, str) else text
    return lambda folder: (folder / name).write_bytes(data)  # type: ignore[return-value]


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def config(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit_config(folder, **changes)


def remote_code(folder: Path) -> None:
    (folder / "modeling_evil.py").write_text(EVIL)
    edit_config(folder, model_type="evil", auto_map={"AutoConfig": "modeling_evil.X", "AutoModel": "modeling_evil.X"})


def deep(folder: Path) -> None:
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text[:-1] + ', "x": ' + "[" * 5000 + "]" * 5000 + "}")


NAN8 = torch.tensor(0x7F, dtype=torch.uint8).view(torch.float8_e4m3fn)
BROKEN: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    # what is wrong: how to make it, the file named, what is said
    "pickle alone": (lambda f: replace_weights(f, "pytorch_model.bin", pickle.dumps(Ran())), "", "pytorch_model.bin is pickle and never opened"),
    "a .pt alone": (lambda f: replace_weights(f, "model.pt", pickle.dumps(Ran())), "", "model.pt is pickle and never opened"),
    "torch.save called safetensors": (zipped_pickle, WEIGHTS, "begins like pickle, which is never opened"),
    "pickle called safetensors": (write(WEIGHTS, pickle.dumps(Ran(), 4)), WEIGHTS, "begins like pickle"),
    "empty file": (write(WEIGHTS, b""), WEIGHTS, "0 bytes; cut off?"),
    "cut off": (lambda f: os.truncate(f / WEIGHTS, 100_000), WEIGHTS, "of 9"),
    "header of a terabyte": (write(WEIGHTS, struct.pack("<Q", 10**12) + b"{" * 100), WEIGHTS, "header of 1,000,000,000,000 bytes"),
    "header not JSON": (lambda f: header(f, lambda entries: "{'a': 1}"), WEIGHTS, "header: not JSON"),
    "header not UTF-8": (write(WEIGHTS, struct.pack("<Q", 8) + b"\xff" * 8), WEIGHTS, "header: not JSON"),
    "header a list": (lambda f: header(f, lambda entries: "[1, 2]"), WEIGHTS, "expected an object"),
    "header 100,000 deep": (lambda f: header(f, lambda entries: "[" * 100_000), WEIGHTS, "nested too deep"),
    "header of NaN": (entry(shape=[float("nan")]), WEIGHTS, "NaN is no number of JSON"),
    "tensors overlap": (shift(-320, -320), WEIGHTS, "overlaps the one before it"),
    "a hole between tensors": (shift(320, 320), WEIGHTS, "bytes before it unused"),
    "bytes behind the last tensor": (lambda f: os.truncate(f / WEIGHTS, (f / WEIGHTS).stat().st_size + 64), WEIGHTS, "64 bytes behind the last tensor"),
    "a name twice in a header": (twice, WEIGHTS, f"key {NORM} twice in one object"),
    "unknown dtype": (entry(dtype="PICKLE"), WEIGHTS, f"tensor {NORM}: dtype PICKLE"),
    "dtype a list": (entry(dtype=["F32"]), WEIGHTS, "dtype ['F32']"),
    "offsets beyond the file": (beyond, WEIGHTS, "the file is cut off or its header wrong"),
    "negative offsets": (entry(data_offsets=[-320, 0]), WEIGHTS, "expected whole numbers, few and not negative"),
    "three offsets": (entry(data_offsets=[0, 1, 2]), WEIGHTS, "expected dtype, shape, data_offsets"),
    "sizes whose product overflows": (entry(shape=[2**62, 2**62]), WEIGHTS, "bytes for BF16"),
    "a million dimensions": (entry(shape=[1] * 10**6), WEIGHTS, "expected whole numbers, few"),
    "shape of text": (entry(shape="160"), WEIGHTS, "expected whole numbers"),
    "fewer bytes than the shape": (entry(shape=[161]), WEIGHTS, "320 bytes for BF16 [161], expected 322"),
    "map leaves by ..": (index("../outside.safetensors"), INDEX, "weight_map: ../outside.safetensors for"),
    "map absolute": (index("/etc/passwd"), INDEX, "/etc/passwd"),
    "map of a pickle": (index("pytorch_model.bin"), INDEX, "expected the name of a .safetensors file"),
    "map not text": (index(7), INDEX, "weight_map: 7"),
    "map of a missing file": (index("gone.safetensors"), INDEX, "names gone.safetensors, which is not in the folder"),
    "map of a folder": (lambda f: (directory(f), index(WEIGHTS)(f)), INDEX, "which is no file"),
    "map of a link that leaves": (lambda f: (linked_out(f), index(WEIGHTS)(f)), INDEX, "is a link that leaves the folder"),
    "weights a link that leaves": (linked_out, "", "is a link that leaves the folder"),
    "weights a folder": (directory, "", "which is no file"),
    "weights a pipe": (pipe, "", "which is no file"),
    "weights a device": (lambda f: ((f / WEIGHTS).unlink(), (f / WEIGHTS).symlink_to("/dev/zero")), "", "which is no file"),
    "weights a broken link": (lambda f: ((f / WEIGHTS).unlink(), (f / WEIGHTS).symlink_to("x")), "", "no weights"),
    "index not JSON": (write(INDEX, "{"), INDEX, "not JSON"),
    "index without a map": (write(INDEX, '{"weight_map": []}'), INDEX, "key weight_map: []"),
    "index too large": (write(INDEX, b" " * (64 * 2**20 + 1)), INDEX, "67,108,865 bytes, expected at most"),
    "a stale single file beside an index": (sharded(beside), INDEX, "places nothing in model.safetensors"),
    "a tensor in two shards": (sharded(again), "model-00001.safetensors", f"tensor {NORM}: also in model-00000.safetensors"),
    "a tensor the map forgets": (sharded(lambda f, m: m.pop(NORM)), "model-00000.safetensors", f"tensor {NORM}: weight_map"),
    "a tensor the map invents": (sharded(lambda f, m: m.update(x="model-00000.safetensors")), "model-00000.safetensors", "tensor x: missing"),
    "missing tensor": (tensors(lambda t: t.pop(NORM)), "", f"missing {NORM}"),
    "missing weight of a scale": (tensors(lambda t: t.pop(DOWN)), "", f"missing {DOWN}; unexpected {DOWN}_scale_inv"),
    "extra tensor": (tensors(lambda t: t.update(evil=torch.ones(1))), "", "unexpected evil"),
    "a name with a line break and colors": (tensors(lambda t: t.update({"a\n\x1b[31mb": torch.ones(1)})), "", r"unexpected 'a\n\x1b[31mb'"),
    "a name of a million letters": (tensors(lambda t: t.update({"x" * 10**6: torch.ones(1)})), "", "xxx…"),
    "wrong shape": (tensors(lambda t: t.update({NORM: torch.ones(159)})), WEIGHTS, f"tensor {NORM}: shape (159,), expected (160,)"),
    "integers": (tensors(lambda t: t.update({NORM: torch.ones(160, dtype=torch.int64)})), WEIGHTS, f"tensor {NORM}: dtype I64"),
    "NaN": (put(NORM, float("nan")), WEIGHTS, f"tensor {NORM}: not finite: 1 of 160"),
    "infinity": (put("lm_head.weight", float("-inf")), WEIGHTS, "tensor lm_head.weight: not finite: 1 of"),
    "NaN in FP8": (put(DOWN, NAN8), WEIGHTS, f"tensor {DOWN}: not finite: 1 of"),
    "NaN in a scale": (put(f"{DOWN}_scale_inv", float("nan")), WEIGHTS, f"tensor {DOWN}_scale_inv: not finite: 1 of 4"),
    "infinite scale": (put(f"{DOWN}_scale_inv", float("inf")), WEIGHTS, f"tensor {DOWN}_scale_inv: not finite: 1 of 4"),
    "scale too large for the numbers": (put(f"{DOWN}_scale_inv", 3e38), WEIGHTS, f"tensor {DOWN}: not finite"),
    "scale of the wrong shape": (tensors(lambda t: t.update({f"{DOWN}_scale_inv": torch.ones(1, 2)})), WEIGHTS, f"tensor {DOWN}_scale_inv: shape (1, 2), expected (2, 2)"),
    "scale of integers": (tensors(lambda t: t.update({f"{DOWN}_scale_inv": torch.ones(2, 2, dtype=torch.int32)})), WEIGHTS, f"tensor {DOWN}_scale_inv: dtype I32"),
    "missing scale": (tensors(lambda t: t.pop(f"{DOWN}_scale_inv")), WEIGHTS, f"tensor {DOWN}: FP8 without its scale"),
    "FP8 norm": (tensors(lambda t: t.update({NORM: torch.ones(160).to(torch.float8_e4m3fn)})), WEIGHTS, f"tensor {NORM}: FP8 of shape (160,)"),
    "FP8 no setting announces": (config(quantization_config=None), "config.json", "key quantization_config: missing"),
    "another quantization": (config(quantization_config={**FP8, "quant_method": "gptq"}), "config.json", "key quantization_config.quant_method: gptq, expected 'fp8'"),
    "other blocks": (config(quantization_config={**FP8, "weight_block_size": [1, 32]}), "config.json", "weight_block_size: [1, 32]"),
    "no config": (remove("config.json"), "", "config.json is missing"),
    "config not JSON": (write("config.json", "{'model_type': 1}"), "config.json", "not JSON"),
    "config not UTF-8": (write("config.json", b"\xff\xfe"), "config.json", "not JSON"),
    "config a list": (write("config.json", "[]"), "config.json", "key model_type: missing"),
    "config of 2 MB": (write("config.json", '{"model_type": "deepseek_v3"}' + " " * 2**21), "config.json", "expected at most 1,048,576"),
    "config 5,000 deep": (deep, "config.json", "nested too deep"),
    "config of NaN": (config(rms_norm_eps=float("nan")), "config.json", "NaN is no number of JSON"),
    "config key twice": (lambda f: (f / "config.json").write_text('{"model_type": "x",' + (f / "config.json").read_text()[1:]), "config.json", "key model_type twice"),
    "config asks for code": (remote_code, "config.json", "code of the folder (auto_map) is never run"),
    "config of another model": (config(model_type="llama"), "config.json", "key model_type: llama"),
    "model_type of half a million letters": (config(model_type="x" * 500_000), "config.json", "xxx…"),
    "negative width": (config(hidden_size=-160), "config.json", "hidden_size: -160"),
    "width a word": (config(hidden_size="wide"), "config.json", "hidden_size"),
    "no width": (config(hidden_size=None), "config.json", "key hidden_size: missing"),
    "a billion layers": (config(num_hidden_layers=10**9), "config.json", "num_hidden_layers: 1000000000, expected a whole number from 1 to 1,000"),
    "more layers than tensors": (config(num_hidden_layers=999), "config.json", "num_hidden_layers 999"),
    "a billion experts": (config(n_routed_experts=10**9), "config.json", "n_routed_experts: 1000000000"),
    "more experts than tensors": (config(n_routed_experts=10**5), "config.json", "n_routed_experts 100000"),
    "a vocabulary of a million": (config(vocab_size=10**6), WEIGHTS, "expected (1000000, 160)"),
    "a billion next-token layers": (config(num_nextn_predict_layers=10**9), "config.json", "num_nextn_predict_layers: 1000000000"),
    "more next-token layers than tensors": (config(num_nextn_predict_layers=999), "config.json", "num_nextn_predict_layers 999"),
    "a width beyond 64 bits": (config(hidden_size=10**15), "config.json", "hidden_size: 1000000000000000"),
    "latent of no width": (config(q_lora_rank=0), "config.json", "q_lora_rank: 0, expected null"),
    "stretching as a word": (config(rope_scaling="yarn"), "config.json", "key rope_scaling: yarn, expected an object"),
    "epsilon a word": (config(rms_norm_eps="small"), "config.json", "key rms_norm_eps: small, Input should be a valid number"),
    "dense layers below none": (config(first_k_dense_replace=-1), "config.json", "key first_k_dense_replace: -1"),
    "rope of a list": (config(rope_parameters=[1]), "config.json", ""),
    "rope of words": (config(rope_parameters={"rope_type": "default", "rope_theta": "a"}), "config.json", "key rope_parameters.rope_theta: a, expected a number above 0"),
    "latent a word": (config(q_lora_rank="x"), "config.json", "key q_lora_rank: x"),
    "latent below none": (config(q_lora_rank=-3), "config.json", "key q_lora_rank: -3, expected 0 or more"),
    "scores nobody knows": (config(scoring_func="evil"), "config.json", "key scoring_func: evil, Input should be 'sigmoid' or 'softmax'"),
    "rope of another kind": (config(rope_parameters={"rope_type": "evil", "rope_theta": 1.0}), "config.json", "rope"),
    "dense layers a word": (config(first_k_dense_replace="all"), "config.json", "first_k_dense_replace"),
}  # fmt: skip
"""Refused by convert and load alike."""
TOKENIZERS: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "tokenizer not JSON": (write("tokenizer.json", "{"), "", "no readable tokenizer"),
    "tokenizer missing": (lambda f: [path.unlink() for path in f.glob("tokenizer*")], "", "no readable tokenizer"),
    "tokenizer asks for code": (
        lambda f: write("tokenizer_config.json", json.dumps({"auto_map": {"AutoTokenizer": ["evil.X", None]}}))(f),
        "", "no readable tokenizer",
    ),
}  # fmt: skip
"""Refused by a load; convert copies them."""


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = fp8_folder(tmp_path_factory.mktemp("good") / "folder")
    mini_tokenizer().save_pretrained(folder)
    load_teacher(folder)  # what is imported once is not part of a refusal
    return folder


@pytest.fixture
def folder(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(good, tmp_path / "folder")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "folder"


def peak() -> int:
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) * 1024


def command(folder: Path) -> str:
    """`distill teacher convert`, which must exit with 2 and say nothing but one line."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["distill", "teacher", "convert", str(folder), str(folder.with_name("out"))])
        with pytest.raises(SystemExit) as stopped:
            main()
    assert stopped.value.code == 2
    assert out.getvalue() == ""
    assert not folder.with_name("out").exists()
    return err.getvalue().removesuffix("\n")


def load(folder: Path) -> str:
    with pytest.raises(UserError) as refused:
        load_teacher(folder)
    return str(refused.value)


def check(refuse: Callable[[Path], str], folder: Path, case: tuple[Callable[[Path], Any], str, str]) -> None:
    spoil, named, message = case
    spoil(folder)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew (proc(5))
    before, begun = peak(), time.monotonic()
    line = refuse(folder)
    seconds, growth = time.monotonic() - begun, peak() - before
    assert line.startswith(str(folder / named)), line
    assert message in line
    assert line.isprintable(), "more than one line"
    assert len(line) < 1000
    assert seconds < SECONDS
    assert growth < GROWTH
    assert not Path("ran").exists(), "code of the folder was run"


@pytest.mark.parametrize("refuse", [command, load])
@pytest.mark.parametrize("case", BROKEN.values(), ids=BROKEN)
def test_a_broken_folder_is_refused_in_one_line_at_once(folder, case, refuse):
    check(refuse, folder, case)


@pytest.mark.parametrize("case", TOKENIZERS.values(), ids=TOKENIZERS)
def test_a_broken_tokenizer_is_refused_in_one_line_at_once(folder, case):
    check(load, folder, case)


def test_a_lineage_that_is_none_is_refused(folder):
    (folder / "lineage.json").write_text("{}")
    assert command(folder).startswith(f"{folder}/lineage.json: not a lineage (name: Field required)")


def test_code_beside_published_weights_is_never_run(folder):
    """DeepSeek's own folders carry it."""
    (folder / "modeling_deepseek.py").write_text(EVIL)
    edit_config(folder, auto_map={"AutoConfig": "modeling_deepseek.X", "AutoModelForCausalLM": "modeling_deepseek.X"})
    load_teacher(folder)
    assert not Path("ran").exists()


def test_links_into_the_hubs_cache_are_followed(good, tmp_path):
    cache = tmp_path / "models--deepseek-ai--toy"
    snapshot = cache / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    for number, path in enumerate(good.iterdir()):
        shutil.copy(path, cache / "blobs" / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    load_teacher(snapshot)
    (cache / "outside").write_bytes((snapshot / WEIGHTS).read_bytes())
    (snapshot / WEIGHTS).unlink()
    (snapshot / WEIGHTS).symlink_to("../../outside")
    with pytest.raises(UserError, match="is a link that leaves the folder"):
        load_teacher(snapshot)

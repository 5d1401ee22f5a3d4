"""A plan's numbers are those a person would compute, and what does not fit is refused with what would."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from distill.errors import UserError
from distill.jsonl import write_jsonl
from distill.plan import EngineShape, Estimate, Hardware, Use, estimate_engine
from distill.problems.vocabulary import mini_tokenizer
from distill.records import Problem
from distill.runs import read_manifest
from students.shapes import PUBLISHED as STUDENTS
from students.shapes import engine_shape as student_shape
from students.shapes import student_config
from teacher.config import preset
from teacher.parallel.layout import Layout
from teacher.parallel.shapes import engine_shape
from tests.test_parallel import write_blocks

H200 = Hardware(gpus=8, gpu_gb=141, bandwidth_tbs=4.3)
USE = Use(step="harvest", max_tokens=16384, prompt_tokens=1024, most_rows=512, prefill_tokens=8192, cache_gb=2)
TOY = EngineShape(
    what="toy",
    gpus=1,
    weight_bytes=60 * 10**9,
    always_bytes=10 * 10**9,
    expert_bytes=10**9,
    experts=10,
    chosen=2,
    expert_layers=5,
    cache_bytes_per_token=10**5,
    prefill_bytes_per_token=10**5,
    row_bytes=10**6,
    scratch_bytes=10**9,
    positions=10**6,
)


@pytest.fixture(scope="module")
def r1() -> EngineShape:
    return engine_shape(preset("v3"), Layout(8, 8), "fp8", "R1")


def test_weights_of_v3_are_counted_by_hand() -> None:
    """671.03 billion numbers: one byte each in FP8, two where DeepSeek keeps bfloat16, and what goes with them."""
    shape = engine_shape(preset("v3"), Layout(), "fp8", "V3")
    embedding = 2 * 129280 * 7168  # and head
    norms = 61 * (2 * 7168 + 1536 + 512) + 7168
    routers = 58 * 256 * 7168
    quantized = 671_026_404_352 - embedding - norms - routers
    # blocks of 128 x 128 a layer: q_a, q_b, kv_a (576 rows are 5 blocks), kv_b, o
    attention = 12 * 56 + 192 * 12 + 5 * 56 + 256 * 4 + 56 * 128
    blocks = 61 * attention + 3 * 3 * 144 * 56 + 58 * 257 * 3 * 16 * 56
    expansions = 61 * 128 * (128 + 128) * 512
    bias = 58 * 256
    assert shape.weight_bytes == quantized + 4 * blocks + 2 * (embedding + norms + routers + expansions) + 4 * bias
    assert shape.weight_bytes == pytest.approx(671e9, rel=0.01)


def test_the_cache_of_v3_is_576_numbers_a_layer(r1: EngineShape) -> None:
    assert r1.cache_bytes_per_token == 576 * 61 * 2


@pytest.mark.parametrize(("rows", "hit", "gigabytes"), [(1, 8, 0.35), (8, 57, 2.53), (32, 163, 7.2), (128, 252, 11.1)])
def test_a_layers_experts_are_read_as_often_as_some_token_chose_them(
    r1: EngineShape, rows: int, hit: int, gigabytes: float
) -> None:
    """The floors of one routed layer as computed elsewhere, on one GPU."""
    layer = (r1.step_bytes(rows, 0) - r1.always_bytes) * 8 / 58
    assert layer / 1e9 == pytest.approx(gigabytes, abs=0.05)
    assert layer / r1.expert_bytes == pytest.approx(hit, abs=0.5)


def test_one_row_reads_the_active_weights(r1: EngineShape) -> None:
    """About 36.6 billion numbers are active without the embedding; attention's and the head's share is split by 8."""
    one = engine_shape(preset("v3"), Layout(), "fp8", "V3")
    head, expansion = 129280 * 7168, 61 * 128 * 256 * 512
    assert one.step_bytes(1, 0) == pytest.approx(36.63e9 + head + expansion, rel=0.003)
    assert r1.step_bytes(1, 0) < one.step_bytes(1, 0) / 6


def test_eight_gpus_of_141_gb_hold_r1_in_fp8_and_not_in_bfloat16(r1: EngineShape) -> None:
    def shape_on(gpus: int, dtype: str = "bfloat16") -> EngineShape:
        return engine_shape(preset("v3"), Layout(gpus, gpus), dtype, "R1")

    estimate = estimate_engine(USE, H200, lambda gpus: shape_on(gpus, "fp8"))
    assert 84 < estimate.weight_gb < 87
    assert estimate.free_gb + estimate.weight_gb + estimate.activation_gb == pytest.approx(0.95 * 141, abs=0.01)
    with pytest.raises(UserError, match=r"169\.8 GB of weights.* of 133\.9 GB that may be used; 16 such GPUs would do"):
        estimate_engine(USE, H200, shape_on)


def test_numbers_of_a_toy_are_those_of_a_pocket_calculator() -> None:
    use = USE.model_copy(update={"max_tokens": 3000, "prompt_tokens": 1000, "most_rows": 20, "prefill_tokens": 10_000})
    estimate = estimate_engine(use, Hardware(gpus=1, gpu_gb=100, bandwidth_tbs=2), lambda gpus: TOY)
    assert estimate.activation_gb == 2.0  # 1 GB used again, 10,000 prompt tokens of 100 kB
    assert estimate.free_gb == 33.0  # 95 - 60 - 2
    assert estimate.single_tokens_per_second == 100.0  # 10 GB, and 2 of 10 experts in 5 layers, in 10 ms
    fit = next(fit for fit in estimate.fits if fit.context == 4000)
    assert (fit.rows, fit.most_rows) == (5, 20)  # 0.4 GB a row: 2 GB, 33 GB, at most 20
    hit = 10 * (1 - 0.8**5)
    assert fit.tokens_per_second == pytest.approx(5 * 2e12 / (10e9 + hit * 5e9 + 5 * 0.2e9), abs=0.1)


@pytest.mark.parametrize(
    ("use", "shape", "gpu_gb", "complaint"),
    [
        ({"max_tokens": 10**6}, {}, 100, "beyond the 1000000 positions of toy"),
        ({"cache_gb": 40}, {}, 100, "cache_gb 40: 33.18 GB are free for it on each GPU"),
        ({}, {}, 64, "the step uses 1, and more would change nothing"),
    ],
)
def test_what_does_not_fit_is_refused(
    use: dict[str, float], shape: dict[str, int], gpu_gb: float, complaint: str
) -> None:
    with pytest.raises(UserError) as error:
        estimate_engine(
            USE.model_copy(update=use),
            Hardware(gpus=1, gpu_gb=gpu_gb, bandwidth_tbs=2),
            lambda gpus: replace(TOY, **shape),
        )
    assert complaint in str(error.value)


def test_weights_and_cache_of_a_student_are_counted_by_hand() -> None:
    shape = student_shape(student_config(Path("models/Qwen2.5-1.5B")), "bfloat16", "Qwen")
    assert shape.cache_bytes_per_token == 28 * 2 * 2 * 128 * 2  # layers, keys and values, heads, width, bytes
    fused = 28 * (1536 * (12 + 2 + 2) * 128 + (12 + 2 + 2) * 128 + 2 * 1536 * 8960)
    assert shape.weight_bytes == 2 * (1_543_714_304 + fused)
    assert shape.always_bytes == 2 * 1_543_714_304


@pytest.mark.parametrize("name", STUDENTS)
def test_every_published_student_has_a_shape(name: str) -> None:
    assert student_shape(student_config(Path("models") / name), "bfloat16", name).weight_bytes > 10**8


def planned(*arguments: str) -> list[Estimate]:
    result = CliRunner().invoke(app, ["plan", "--json", *arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    found = [json.loads(line) for line in result.stdout.splitlines()]
    return [Estimate.model_validate(each) for each in found if "fits" in each and each["fits"] is not True]


@pytest.mark.parametrize(("option", "value"), [("--gpus", "0"), ("--gpu-gb", "inf"), ("--bandwidth", "inf")])
def test_numbers_no_machine_has_are_refused(option: str, value: str) -> None:
    given = {"--gpus": "8", "--gpu-gb": "141", option: value}
    result = CliRunner().invoke(
        app, ["plan", "--recipe", "r1-671b", *(word for pair in given.items() for word in pair)]
    )
    assert result.exit_code == 2
    assert f"Invalid value for '{option}'" in result.output


def test_the_r1_recipe_is_planned_from_the_command_line() -> None:
    harvest, *benches = planned("--recipe", "r1-671b", "--gpus", "8", "--gpu-gb", "141")
    assert (harvest.step, harvest.gpus_used) == ("harvest", 8)
    assert [fit.context for fit in harvest.fits] == [4096, 8192, 16384, 17408, 32768, 65536, 131072]
    assert [bench.step for bench in benches] == ["bench", "bench"]
    assert benches[0].gpus_used == 1
    text = CliRunner().invoke(app, ["plan", "--recipe", "r1-671b", "--gpus", "8", "--gpu-gb", "141"]).stdout
    assert "no such speed was measured" in text
    assert "every GPU keeps the whole latent cache" in text


def test_models_that_steps_make_have_the_shape_of_their_start() -> None:
    arguments = ("--recipe", "mini", "--gpus", "1", "--gpu-gb", "8", "--prompt-tokens", "80")
    estimates = planned(*arguments, "--step", "harvest")
    assert estimates[0].cache_bytes_per_token == 320 * 4
    assert estimates[0].what == "teacher, float32"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--recipe", "replay", "--step", "bench-r1"), r"\[bench-r1\] stage bench: nothing to plan"),
        (("--recipe", "mini", "--step", "curate"), r"\[curate\] stage curate: nothing to plan"),
        (("--recipe", "mini", "--step", "techer"), r"no step 'techer' \(did you mean teacher\?\)"),
        (("--recipe", "r1-671b", "--set", 'harvest.model="models/Gone"'), "models/Gone: no config.json in it"),
        (("--recipe", "r1-671b", "--set", 'harvest.model="models/Qwen2.5-1.5B"'), "are for teachers"),
        (("--recipe", "r1-671b", "--gpus", "6"), r"tensor_parallel 6: does not divide num_attention_heads \(128\)"),
    ],
)
def test_what_cannot_be_planned_is_named(arguments: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        planned("--gpus", "8", "--gpu-gb", "141", *arguments)


def test_the_r1_recipe_harvests_at_toy_width_from_an_fp8_folder(tmp_path: Path) -> None:
    tokenizer = mini_tokenizer()
    vocabulary = max(tokenizer.get_vocab().values()) + 1
    write_blocks(tmp_path / "DeepSeek-R1", vocab_size=vocabulary)
    tokenizer.save_pretrained(tmp_path / "DeepSeek-R1")
    asked = [
        Problem(id=f"p{i}", kind="answer", prompt=prompt, answer="5", source="toy", split="train")
        for i, prompt in enumerate(("2 + 3", "1 + 4"))
    ]
    write_jsonl(tmp_path / "problems.jsonl", asked)
    changes = {
        "model": f'"{tmp_path / "DeepSeek-R1"}"',
        "tensor_parallel": "1",
        "expert_parallel": "1",
        "max_tokens": "8",
        "instruction": '"none"',
    }
    sets = [part for key, value in changes.items() for part in ("--set", f"harvest.{key}={value}")]
    arguments = ["harvest", "--recipe", "r1-671b", "--from", str(tmp_path / "problems.jsonl"), "--out", str(tmp_path)]
    result = CliRunner().invoke(app, [*arguments, *sets])
    assert result.exit_code == 0, (result.output, result.exception)
    assert read_manifest(tmp_path / "harvest").report.counts["traces"] == 8

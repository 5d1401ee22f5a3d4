"""One engine for teacher and students: continuous batching over the `Decoder` protocol.

`Engine` speaks token ids (reinforcement learning uses it directly), `EngineSampler`
speaks conversations (harvest and bench). Reading order: jobs, blocks,
scheduler, choice, rows, engine, sampler, service.
"""

from distill.sampling.engine.engine import Engine
from distill.sampling.engine.jobs import Job, RolledOut, Said, Ticket
from distill.sampling.engine.sampler import EngineSampler
from distill.sampling.engine.sizing import Room, room

__all__ = ["Engine", "EngineSampler", "Job", "RolledOut", "Room", "Said", "Ticket", "room"]

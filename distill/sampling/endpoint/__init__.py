"""Endpoint: servers that speak OpenAI's API become one sampler."""

from distill.sampling.endpoint.config import EndpointConfig
from distill.sampling.endpoint.pool import Health
from distill.sampling.endpoint.sampler import EndpointSampler

__all__ = ["EndpointConfig", "EndpointSampler", "Health"]

"""Guard: what a student can do before, during and after training on traces, and whether the traces were for it.

Small students often end below where they began when they imitate long traces of strong teachers (small-model
learnability gap, arXiv 2502.12143: at most 3B parameters; GAIR-NLP/LIMO#15: a 1.5B student falls from 53.8 to 29.2 on
MATH). The guard measures and says so; it refuses nothing. Reading order: table, record, sitting, watch.
"""

"""Preflight: everything a training step may be refused for, before a step is paid for.

    row        one tokenized example: what carries loss, how it ends, what the template lost
    template   generation marks for a template that has none, and the proof that nothing else changed
    memory     what training needs beside what is free, before anything is allocated
    model      tokenizer against embedding, positions, finite weights
    batch      what the collator makes of real rows
    packing    packed rows against the same rows alone, in the run itself
    example    one row as it will be learned, to be looked at
    findings   what was checked, with figures

Every refusal names file and line or key, the value, what was expected and the remedy. Whether examples are true or
teach anything is not looked at here.
"""

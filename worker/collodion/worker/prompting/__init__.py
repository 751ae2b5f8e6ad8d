"""Prompts as people write them for Stable Diffusion 1, 2 and XL: weights, any length, embeddings by name.

The life of a prompt, in the order in which the files are used:

emphasis    brackets, weights and BREAK: from a string to fragments of text, each with a weight (no torch at import)
mentions    where a fragment names an embedding (no torch at import)
embeddings  textual-inversion files, and the vectors that stand for their names
chunks      tokens and vectors, cut into windows of the text encoder
text        the text encoder's call on a batch of windows, and the weights on what comes out
prompter    `Prompter`: all of the above for one model

`<lora:…>` is taken out before, by `collodion.wire.prompts`.
"""
